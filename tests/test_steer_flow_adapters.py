"""asyndm.steer: ControlNets and IP-Adapters of Stable Diffusion 3.5 and Flux."""

from __future__ import annotations

import copy
import inspect

import diffusers
import pytest
import torch
from steer_flow_toys import TRUE_CFG, Toys, made
from steer_toys import GENERAL, PROMPTS, STRONG, close, hooks, picture, region

import asyndm
from asyndm import Settings
from asyndm.core.settings import SettingsError

# pipeline: (family, channels of the ControlNet beyond the latents', its call)
CONTROLLED = {
    "StableDiffusion3ControlNetPipeline": ("3.5", 0, ("control_image",)),
    "StableDiffusion3ControlNetInpaintingPipeline": ("3.5", 1, ("control_image", "control_mask")),
    "FluxControlNetPipeline": ("Flux", 0, ("control_image",)),
    "FluxControlNetImg2ImgPipeline": ("Flux", 0, ("control_image", "image", "strength")),
    "FluxControlNetInpaintPipeline": ("Flux", 0, ("control_image", "image", "mask_image")),
}


@pytest.fixture(scope="module")
def toys(tmp_path_factory):
    return Toys(tmp_path_factory.mktemp("adapters"))


def random(module, seed=3):
    """Every weight counts, as in the networks themselves."""
    torch.manual_seed(seed)
    for weight in module.parameters():
        torch.nn.init.normal_(weight, std=weight[0].numel() ** -0.5 if weight.ndim > 1 else 0.1)
    return module.eval()


def controlnet(pipe, family, more):
    config = pipe.transformer.config
    shared = {
        "attention_head_dim": 8, "num_attention_heads": 4,
        "joint_attention_dim": config.joint_attention_dim,
        "pooled_projection_dim": config.pooled_projection_dim,
    }  # fmt: skip
    if family == "Flux":
        return diffusers.FluxControlNetModel(
            patch_size=1, in_channels=64, num_layers=1, num_single_layers=1, guidance_embeds=True,
            axes_dims_rope=(2, 2, 4), **shared,
        )  # fmt: skip
    return diffusers.SD3ControlNetModel(
        sample_size=16, num_layers=2, caption_projection_dim=32, pos_embed_max_size=12,
        extra_conditioning_channels=more, **shared,
    )  # fmt: skip


@pytest.fixture(scope="module")
def controlled(toys):
    made = {}

    def of(name):
        if name not in made:
            family, more, _ = CONTROLLED[name]
            whole, plain = getattr(diffusers, name), toys.pipe(family)
            takes = inspect.signature(whole.__init__).parameters
            parts = {part: each for part, each in plain.components.items() if part in takes}
            made[name] = whole(**parts, controlnet=random(controlnet(plain, family, more)))
            made[name].set_progress_bar_config(disable=True)
        return made[name]

    return of


def call(pipe, name, settings=None, prompts=PROMPTS, seeds=(3, 4), **changes):
    """(latents, result) of a call; some of these encode the hint with torch's own noise."""
    count = len(prompts)
    every = {
        "control_image": [picture(1)] * count, "image": [picture()] * count, "strength": 0.7,
        "mask_image": [region()] * count, "control_mask": region(),
    }  # fmt: skip
    given = {each: every[each] for each in CONTROLLED[name][2]}
    if "control_mask" in given:
        given["control_image"] = picture(1)
    if "mask_image" in given:
        given["strength"] = 1.0
    torch.manual_seed(11)
    if settings is None:
        return made(pipe, "text", prompts, 4, seeds, **{**given, **changes}), None
    with asyndm.steer(pipe, settings) as result:
        mine = made(pipe, "text", prompts, 4, seeds, **{**given, **changes})
    return mine, result


# The same pipelines with another argument.
SLOW = ("StableDiffusion3ControlNetInpaintingPipeline", "FluxControlNetImg2ImgPipeline")


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[pytest.mark.slow] * (name in SLOW)) for name in CONTROLLED]
)
def test_a_controlnet_guides_a_steered_picture(name, toys, controlled):
    pipe = controlled(name)
    plain, _ = call(pipe, name)
    weak, _ = call(pipe, name, controlnet_conditioning_scale=0.0)
    assert (plain - weak).abs().max() > 1e-2  # the hint acts
    same, result = call(pipe, name, GENERAL)
    close(same, plain)
    assert result.notes == [] and hooks(pipe) == 0
    mine, result = call(pipe, name, STRONG)
    assert (mine - plain).abs().flatten(1).amax(1).min() > 1e-2
    apart = [frame.timestep.max() > frame.timestep.min() for frame in result.film]
    assert any(apart) or len(apart) < 4  # all are objects in the first step, all arrive in the last
    paper, _ = call(pipe, name, Settings(curvature=1e-9, origin="paper"))
    close(paper, plain)
    again, _ = call(pipe, name)
    assert torch.equal(again, plain)


def test_methods_beside_a_controlnet(controlled):
    name = "StableDiffusion3ControlNetPipeline"
    pipe = controlled(name)
    whole = {"guidance": "apg", "apg_eta": 1.0, "apg_momentum": 0.0, "apg_norm": 0.0}
    same, result = call(pipe, name, Settings(curvature=1e-9, **whole))
    close(same, call(pipe, name)[0])  # APG that keeps everything is CFG
    assert [one.rows for one in result.measured] == [8, 8]
    for changes in ({"guidance": "cfg++"}, {"interval_low": 0.8}, {"mask_source": "fixed"}):
        other, result = call(pipe, name, Settings(curvature=0.7, **changes))
        assert (other - same).abs().max() > 1e-2 and result.notes == []
    with pytest.raises(SettingsError, match="a ControlNet's hints belong to one network call"):
        call(pipe, name, Settings(zigzag=0.5))


def test_the_region_that_a_controlnet_pipeline_repaints_is_kept(controlled):
    name = "FluxControlNetInpaintPipeline"
    pipe = controlled(name)
    _, result = call(pipe, name, Settings(curvature=0.7, mask_source="given"))
    assert result.masks.mean() == 0.25 and result.notes == []
    _, result = call(pipe, name, Settings(curvature=0.7, lead=0.5))
    ahead = result.film[2].clock[0, 0, 0]  # a pixel that is kept
    assert ahead == pytest.approx(3 - 0.5 * (3 - 2)) and result.notes == []


# --- IP-Adapter, which diffusers has for these networks since 0.32 and 0.33 ---


def with_adapter(toys, family):
    """(pipeline, what its call is given) with a random IP-Adapter in a network of its own."""
    plain = toys.pipe(family)
    pipe = type(plain)(**{**plain.components, "transformer": copy.deepcopy(plain.transformer)})
    pipe.set_progress_bar_config(disable=True)
    network, generator = pipe.transformer, torch.Generator().manual_seed(5)
    width = network.config.joint_attention_dim
    if family == "Flux":
        from diffusers.models.embeddings import ImageProjection, MultiIPAdapterImageProjection
        from diffusers.models.transformers import transformer_flux as module

        kind = next(
            getattr(module, name)
            for name in ("FluxIPAdapterAttnProcessor", "FluxIPAdapterJointAttnProcessor2_0")
            if hasattr(module, name)
        )
        processors = {
            name: one
            if name.startswith("single")
            else random(kind(hidden_size=32, cross_attention_dim=width, scale=1.0))
            for name, one in network.attn_processors.items()
        }
        network.set_attn_processor(processors)
        network.encoder_hid_proj = MultiIPAdapterImageProjection(
            [random(ImageProjection(8, width, 4))]
        )
        embeds = torch.randn(2, 1, 8, generator=generator)
        given = {"ip_adapter_image_embeds": [embeds], "negative_ip_adapter_image_embeds": [-embeds]}
    else:
        from diffusers.models.attention_processor import SD3IPAdapterJointAttnProcessor2_0
        from diffusers.models.embeddings import IPAdapterTimeImageProjection

        processors = {
            name: one
            if ".attn2." in name
            else random(SD3IPAdapterJointAttnProcessor2_0(32, 32, 8, 16))
            for name, one in network.attn_processors.items()
        }
        network.set_attn_processor(processors)  # ahead of the projection, which has one as well
        network.image_proj = random(
            IPAdapterTimeImageProjection(
                embed_dim=8, output_dim=32, hidden_dim=16, depth=1, dim_head=64, heads=1,
                num_queries=4, timestep_in_dim=8,
            )
        )  # fmt: skip
        given = {"ip_adapter_image_embeds": torch.randn(2, 3, 8, generator=generator)}
    return pipe, given


@pytest.mark.parametrize("family", ["3.5", "Flux"])
def test_an_ip_adapter_guides_a_steered_picture(family, toys):
    if "ip_adapter_image" not in inspect.signature(type(toys.pipe(family)).__call__).parameters:
        pytest.skip("this diffusers has no IP-Adapter for this network")
    pipe, given = with_adapter(toys, family)
    plain = made(pipe, **given)
    assert (plain - made(toys.pipe(family))).abs().max() > 1e-2  # the picture acts
    with asyndm.steer(pipe, GENERAL) as result:
        close(made(pipe, **given), plain)
    assert result.notes == [] and hooks(pipe) == 0
    with asyndm.steer(pipe, STRONG) as result:
        mine = made(pipe, **given)
    assert (mine - plain).abs().flatten(1).amax(1).min() > 1e-2 and result.notes == []
    whole = {"guidance": "apg", "apg_eta": 1.0, "apg_momentum": 0.0, "apg_norm": 0.0}
    if family == "Flux" and TRUE_CFG:
        given |= {"negative_prompt": ["rain", "rain"], "true_cfg_scale": 3.0}
    with asyndm.steer(pipe, Settings(curvature=1e-9, **whole)):
        other = made(pipe, **given)
    close(other, made(pipe, **given))


@pytest.mark.parametrize("family", ["3.5", "Flux"])
def test_an_ip_adapter_s_pictures_stay_with_their_predictions(family, toys):
    """Also in the calls of a zigzag; pipelines change what their calls share."""
    if "ip_adapter_image" not in inspect.signature(type(toys.pipe(family)).__call__).parameters:
        pytest.skip("this diffusers has no IP-Adapter for this network")
    pipe, given = with_adapter(toys, family)
    given["negative_prompt"] = ["rain", "a dog"]
    if family == "Flux":
        given["true_cfg_scale"] = 3.0
    network, texts, pictures = pipe.transformer, [], []
    project = network.encoder_hid_proj if family == "Flux" else network.image_proj
    seen = [
        network.register_forward_pre_hook(
            lambda module, args, kwargs: texts.append(kwargs["encoder_hidden_states"]),
            with_kwargs=True,
        ),
        project.register_forward_pre_hook(lambda module, args: pictures.append(args[0])),
    ]
    with asyndm.steer(pipe, Settings(curvature=0.7, zigzag=0.5, zigzag_up=5.0)) as result:
        made(pipe, **given)
    for handle in seen:
        handle.remove()
    assert sum(map(len, texts)) == 2 * result.measured[0].rows > 16
    assert len(texts) == len(pictures)
    rows = {}
    for text, told in zip(texts, pictures):
        for one, other in zip(text, told[0] if isinstance(told, (list, tuple)) else told):
            rows.setdefault(round(float(one.double().sum()), 3), []).append(other)
    assert len(rows) == 4  # two prompts, two without
    for same in rows.values():
        assert all(torch.equal(each, same[0]) for each in same)
