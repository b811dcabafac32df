"""What only hosts of the Forge family have, together with AsynDM."""

from __future__ import annotations

import inspect
import os
from contextlib import contextmanager

import numpy as np
import pytest
import torch
from driver import _encoded
from jobs import PROMPT, PROMPTS, apart, make, painted, ticked

REAL = bool(os.environ.get("ASYNDM_WEBUI_DIR"))
on_real_host = pytest.mark.skipif(not REAL, reason="no real WebUI: set ASYNDM_WEBUI_DIR")


@pytest.fixture(autouse=True)
def family(host):
    if host.backend == "A1111":
        pytest.skip("AUTOMATIC1111 has none of this")


@contextmanager
def before_every_sampling(change):
    """``change(p)`` runs where extensions patch the U-Net."""
    from modules import scripts

    kind = next(type(s) for s in scripts.scripts_txt2img.alwayson_scripts if s.title() == "AsynDM")
    own = kind.process_before_every_sampling

    def both(self, p, *arguments, **kwargs):
        change(p)
        own(self, p, *arguments, **kwargs)

    kind.process_before_every_sampling = both
    try:
        yield
    finally:
        kind.process_before_every_sampling = own


def wrapping(wrapper):
    """A U-Net whose single wrapper slot is taken."""

    def change(p):
        unet = p.sd_model.forge_objects.unet.clone()
        unet.set_model_unet_function_wrapper(wrapper)
        p.sd_model.forge_objects.unet = unet

    return before_every_sampling(change)


def switched_on(host, title: str, tab: str = "txt2img") -> dict:
    """The request that switches an extension of the host on, with its own defaults.

    ``title``: how its title begins; hosts add to it which models it is for.
    """
    from modules import scripts

    runner = getattr(scripts, f"scripts_{tab}")
    named = [s for s in runner.alwayson_scripts if s.title().lower().startswith(title.lower())]
    script = named[0] if named else None
    if script is None:
        pytest.skip(f"this host has no {title}")
    default = host.api.init_default_script_args(runner)[script.args_from : script.args_to]
    place = next((i for i, value in enumerate(default) if value is False), None)
    if place is None:  # Neo's RescaleCFG has a strength, whose 0 is off
        return {script.title(): {"args": [0.7, *default[1:]]}}
    return {script.title(): {"args": [*default[:place], True, *default[place + 1 :]]}}


def drawn(host, extra: dict, kind: str = "txt2img", **more):
    """(without AsynDM, k = 1e-9, k = 0.9), beside another extension."""

    def one(**settings):
        own = ticked(**settings)["alwayson_scripts"] if settings else {}
        return make(host, kind, alwayson_scripts={**extra, **own}, **more)

    return one(), one(curvature=1e-9), one(curvature=0.9)


@on_real_host
@pytest.mark.parametrize(
    "title",
    [
        "FreeU Integrated",
        "SelfAttentionGuidance Integrated",
        "PerturbedAttentionGuidance Integrated",
        "Kohya HRFix Integrated",
        "LatentModifier Integrated",
        "DynamicThresholding (CFG-Fix) Integrated",
        "Never OOM Integrated",
        "RescaleCFG",
        "Mahiro",
        "Advanced Model Sampling for reForge",  # the network's output is read as v, not as eps
    ],
)
def test_beside_the_extensions_of_the_host(host, traces, title):
    alone = make(host, "txt2img")
    plain, same, made = drawn(host, switched_on(host, title))
    make(host, "txt2img")  # Advanced Model Sampling acts on the image after its own, too
    # FreeU knows blocks by numbers of channels that a small network has not.
    if not title.startswith(("Never", "LatentModifier", "FreeU")):
        assert not np.array_equal(alone.images[0], plain.images[0])
    assert apart(plain.images[0], same.images[0]) <= 1
    assert apart(plain.images[0], made.images[0]) > 3
    assert "AsynDM note" not in made.parameters


@on_real_host
def test_multidiffusion_is_one_line(host, traces):
    kind = "img2img" if host.name == "Neo" else "txt2img"  # Neo has it in that tab alone
    extra = switched_on(host, "MultiDiffusion Integrated", kind)
    name = next(iter(extra))
    extra[name]["args"][2:5] = [64, 64, 32]  # tiles of 8x8 latents
    plain, _, made = drawn(host, extra, kind)
    assert np.array_equal(plain.images[0], made.images[0])
    assert "MultiDiffusion" in made.parameters["AsynDM note"]


@on_real_host
def test_a_regional_prompter_is_one_line(host, traces):
    """As Forge Couple does it: rows of the conditional part are repeated for every region."""

    def more_rows(q, k, v, options):
        return torch.cat([q, q]), torch.cat([k, k]), torch.cat([v, v])

    def change(p):
        unet = p.sd_model.forge_objects.unet.clone()
        unet.set_model_attn2_patch(more_rows)
        unet.set_model_attn2_output_patch(lambda out, options: 1.1 * out.chunk(2)[0])
        p.sd_model.forge_objects.unet = unet

    with before_every_sampling(change):
        plain, _, made = drawn(host, {})
        mask = {"mask": _encoded(painted()), "mask_source": "given", "curvature": 0.9}
        given = make(host, "txt2img", **ticked(**mask))
    assert np.array_equal(plain.images[0], made.images[0])
    assert "regional" in made.parameters["AsynDM note"]
    assert apart(plain.images[0], given.images[0]) > 3  # a painted mask needs no attention
    assert "AsynDM note" not in given.parameters


@on_real_host
def test_layers_that_are_offloaded(host, traces, monkeypatch):
    """With little memory the weights stay behind, and each layer fetches its own when called."""
    resident = drawn(host, {})
    layers = 0
    for module in host.network().modules():
        for name in ("parameters_manual_cast", "ldm_patched_cast_weights"):
            if hasattr(module, name):
                monkeypatch.setattr(module, name, True)
                layers += 1
    assert layers > 50
    for one, two in zip(resident, drawn(host, {})):
        assert apart(one.images[0], two.images[0]) <= 1
        assert "AsynDM note" not in two.parameters


@pytest.mark.parametrize("prompt", ["AND", "long"])
def test_every_chunk_in_a_call_of_its_own(host, traces, prompt):
    """What little memory does: the order of the parts must not depend on how they are cut."""
    asked = {"prompt": PROMPTS[prompt], "batch_size": 2}
    together = make(host, "txt2img", **asked, **ticked(curvature=0.9))
    calls: list[list[int]] = []

    def watch(apply, given):
        calls.append(list(given["cond_or_uncond"]))
        return apply(given["input"], given["timestep"], **given["c"])

    model = host.root()
    model.memory_required = lambda *args, **kwargs: float("inf")
    try:
        with wrapping(watch):
            apart_ = make(host, "txt2img", **asked, **ticked(curvature=0.9))
    finally:
        del model.memory_required
    assert all(len(kinds) == 1 for kinds in calls)
    for one, two in zip(together.images, apart_.images):
        assert apart(one, two) <= 2


def test_repeated_contexts(host, traces):
    """Contexts of unequal length are repeated to a common one in a joint call, not apart."""
    asked = {"prompt": PROMPT, "negative_prompt": PROMPTS["long"]}
    lengths = []

    def watch(apply, given):
        if len(given["cond_or_uncond"]) > 1:  # Classic's first step has no unconditional rows
            lengths.append(given["c"]["c_crossattn"].shape[1])
        return apply(given["input"], given["timestep"], **given["c"])

    with wrapping(watch):
        joint = make(host, "txt2img", **asked, **ticked(curvature=0.9, show_masks=True))
    assert min(lengths) > 77  # the short one was repeated
    model = host.root()
    model.memory_required = lambda *args, **kwargs: float("inf")
    try:
        alone = make(host, "txt2img", **asked, **ticked(curvature=0.9, show_masks=True))
    finally:
        del model.memory_required
    for one, two in zip(joint.images, alone.images):
        assert apart(one, two) <= 2


def test_another_extensions_wrapper_keeps_working(host, traces):
    calls = []

    def wrapper(apply, given):
        calls.append(given["input"].shape)
        return 0.8 * apply(given["input"], given["timestep"], **given["c"])

    with wrapping(wrapper):
        plain, same, made = drawn(host, {})
    assert len(calls) >= 15
    assert apart(plain.images[0], same.images[0]) <= 1
    assert apart(plain.images[0], made.images[0]) > 3
    assert apart(plain.images[0], make(host, "txt2img").images[0]) > 3


def test_without_guidance_there_is_no_unconditional_call(host, traces):
    plain, same, made = drawn(host, {}, cfg_scale=1)
    assert apart(plain.images[0], same.images[0]) <= 1
    assert apart(plain.images[0], made.images[0]) > 3


def test_a_model_that_predicts_something_else_is_one_line(host, traces):
    if host.backend != "Forge":
        pytest.skip("the older backend says it by classes; see the contract tests")
    predictor = host.root().predictor
    before, predictor.prediction_type = predictor.prediction_type, "edm"
    try:
        plain, _, made = drawn(host, {})
    finally:
        predictor.prediction_type = before
    assert np.array_equal(plain.images[0], made.images[0])
    assert "no formula for what this model" in made.parameters["AsynDM note"]


class PredictionDiscreteFlow(torch.nn.Module):
    """Looks like Neo's of that name, which a "rectified" SDXL has."""

    prediction_type, shift, multiplier = "const", 3.0, 1000.0

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("sigmas", self.sigma(torch.arange(1, 1001)))

    def timestep(self, sigma):
        return sigma * self.multiplier

    def sigma(self, timestep):
        even = timestep / self.multiplier
        return self.shift * even / (1 + (self.shift - 1) * even)

    def calculate_input(self, sigma, noise):
        return noise

    def calculate_denoised(self, sigma, model_output, model_input):
        return model_input - model_output * sigma.view(-1, 1, 1, 1)

    def percent_to_sigma(self, percent):
        return float(self.sigma(torch.tensor(1000 * (1 - percent))))

    def noise_scaling(self, sigma, noise, latent_image, max_denoise=False):
        sigma = sigma.view(-1, 1, 1, 1)
        return sigma * noise + (1 - sigma) * latent_image


def test_steps_without_noise_are_left_out(host, traces, monkeypatch):
    """Neo's "Automatic" goes through the predictor's table down to 0, and there once more."""
    if host.backend != "Forge":
        pytest.skip("the older backend has no such predictor")
    from modules.sd_samplers_kdiffusion import KDiffusionSampler

    before, made = host.root().predictor, []
    host.root().predictor = flow = PredictionDiscreteFlow()
    levels = flow.sigma(torch.linspace(999, 0, 6))
    try:
        for zeros in (0, 2):
            listed = torch.cat([levels, torch.zeros(zeros)])
            monkeypatch.setattr(KDiffusionSampler, "get_sigmas", lambda *_, now=listed: now)
            made.append(
                make(host, "txt2img", sampler_name="Euler", steps=6, **ticked(curvature=0.9))
            )
    finally:
        host.root().predictor = before
    assert "AsynDM note" not in made[1].parameters
    assert np.array_equal(made[0].images[0], made[1].images[0])


@pytest.mark.parametrize("sampler", ["Euler", "DPM++ 2M SDE"])
def test_a_rectified_model_on_a_unet(host, traces, monkeypatch, sampler):
    if host.backend != "Forge":
        pytest.skip("the older backend has no such predictor")
    from modules.sd_samplers_kdiffusion import KDiffusionSampler

    before = host.root().predictor
    host.root().predictor = flow = PredictionDiscreteFlow()
    # As the hosts' Simple makes them of the predictor's table; the stand-in's is of a U-Net's.
    levels = torch.cat([flow.sigma(torch.linspace(1000, 200, 5)), torch.zeros(1)])
    monkeypatch.setattr(KDiffusionSampler, "get_sigmas", lambda *_: levels)
    try:
        asked = {"sampler_name": sampler, "scheduler": "Simple", "batch_size": 2}
        plain, same, made = drawn(host, {}, **asked)
    finally:
        host.root().predictor = before
    # Of ComfyUI's, as in Neo, every SDE sampler has a form for flow; of k-diffusion's none.
    comfyui = os.environ.get("ASYNDM_WEBUI_DIR") and host.name == "Neo"
    if sampler == "Euler" or comfyui:
        assert apart(plain.images[1], same.images[1]) <= 1
        assert apart(plain.images[1], made.images[1]) > 3
        assert "AsynDM note" not in made.parameters
    else:
        assert np.array_equal(plain.images[1], made.images[1])
        assert "no asynchronous form for rectified-flow models" in made.parameters["AsynDM note"]


@on_real_host
def test_beside_controlnet(host, traces):
    """The control network is shown the latents at the same noise levels as the U-Net."""
    if host.backend != "Forge":
        pytest.skip("the control network here is built from Forge main's modules")
    from backend.nn.cnets.cldm import ControlNet as Network
    from backend.patcher.controlnet import ControlNet, apply_controlnet_advanced

    torch.manual_seed(3)
    hint = torch.rand(1, 3, 128, 128)
    config = {
        name: getattr(host.network(), name)
        for name in ("in_channels", "model_channels", "num_res_blocks", "channel_mult")
    }
    if "hint_width" in inspect.signature(Network).parameters:  # Neo asks for it
        config["hint_width"] = 16
    network = Network(
        **config,
        hint_channels=3,
        num_heads=8,
        use_spatial_transformer=True,
        transformer_depth=[1] * 3,
        transformer_depth_middle=1,
        context_dim=768,
        dtype=torch.float32,
    ).eval()
    for name, weight in network.named_parameters():
        if "zero_convs" in name or "middle_block_out" in name:
            torch.nn.init.normal_(weight, std=0.05)
    control = ControlNet(network, load_device=torch.device("cpu"))
    seen = []
    network.register_forward_pre_hook(lambda m, args, kw: seen.append(kw["x"]), with_kwargs=True)
    fed = []

    def change(p):
        p.sd_model.forge_objects.unet = apply_controlnet_advanced(
            p.sd_model.forge_objects.unet, control, hint, 1.0, 0.0, 1.0
        )

    handle = host.network().register_forward_pre_hook(lambda m, args: fed.append(args[0]))
    try:
        with before_every_sampling(change):
            plain, same, made = drawn(host, {})
    finally:
        handle.remove()
    assert "AsynDM note" not in made.parameters
    assert apart(make(host, "txt2img").images[0], plain.images[0]) > 1
    assert apart(plain.images[0], same.images[0]) <= 1
    assert apart(plain.images[0], made.images[0]) > 3
    for one, two in zip(seen[-5:], fed[-5:]):
        torch.testing.assert_close(one, two)


@pytest.mark.parametrize("lead", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("curvature", [1e-9, 0.8])
def test_what_is_kept_is_at_its_own_noise_level(host, traces, lead, curvature):
    """The host overwrites it at its own sigma before the network: that noise is brought along."""
    from modules import script_callbacks

    off = []

    def look(params):
        run = getattr(params.denoiser, "asyndm_run", None)
        if run is not None and run.call.pixel_time is not None:
            level = run.call.pixel_time.sigma_map()
            kept = (params.denoiser.nmask == 0).expand_as(params.x)
            noise = (params.x - params.denoiser.init_latent)[kept]
            off.append(abs(float((noise / level.expand_as(params.x)[kept]).std()) - 1))

    script_callbacks.on_cfg_denoiser(look)
    try:
        make(host, "inpaint", **ticked(mask_source="given", curvature=curvature, lead=lead))
    finally:
        script_callbacks.remove_callbacks_for_function(look)
    assert len(off) == 5 and max(off) < 0.2
