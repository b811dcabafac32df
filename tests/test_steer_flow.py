"""asyndm.steer: Stable Diffusion 3.5 and Flux, on tiny checkpoints in their real folder layout.

Runs on diffusers 0.31 and on the newest; 0.27 has no Flux.
"""

from __future__ import annotations

import copy
import inspect

import diffusers
import numpy as np
import pytest
import tiny_checkpoint
import torch
from steer_toys import GENERAL, PROMPTS, STRONG, close, hooks, picture, region

import asyndm
from asyndm import Settings
from asyndm.core.settings import SettingsError
from asyndm.network import UnsupportedNetwork

if not hasattr(diffusers, "FluxInpaintPipeline"):
    pytest.skip("this diffusers has no Flux", allow_module_level=True)

FAMILIES = {"3.5": "StableDiffusion3", "Flux": "Flux"}
KINDS = {"text": "", "image": "Img2Img", "inpaint": "Inpaint"}
EVERY = [(family, kind) for family in FAMILIES for kind in KINDS]
TRUE_CFG = "true_cfg_scale" in inspect.signature(diffusers.FluxPipeline.__call__).parameters
INSIDE = (slice(4, 12), slice(2, 10))  # of the latents


class Toys:
    """Pipelines by (family, kind); the same parts in all kinds."""

    def __init__(self, folder):
        self.folder, self._made = folder, {}

    def pipe(self, family="3.5", kind="text"):
        if (family, kind) not in self._made:
            if kind == "text":
                saved = tiny_checkpoint.save_flow(self.folder / family, flux=family == "Flux")
                pipe = diffusers.DiffusionPipeline.from_pretrained(saved)
                assert type(pipe).__name__ == f"{FAMILIES[family]}Pipeline"
            else:
                whole = getattr(diffusers, f"{FAMILIES[family]}{KINDS[kind]}Pipeline")
                parts = self.pipe(family).components
                takes = inspect.signature(whole.__init__).parameters
                pipe = whole(**{name: part for name, part in parts.items() if name in takes})
            pipe.set_progress_bar_config(disable=True)
            self._made[family, kind] = pipe
        return self._made[family, kind]


@pytest.fixture(scope="module")
def toys(tmp_path_factory):
    return Toys(tmp_path_factory.mktemp("flow"))


@pytest.fixture(params=FAMILIES)
def family(request):
    return request.param


def made(pipe, kind="text", prompts=PROMPTS, steps=4, seeds=(3, 4), **changes):
    """Latents of a pipeline's call: [B, 16, 16, 16], or packed [B, 64, 64]."""
    prompts = list(prompts)
    given = {
        "prompt": prompts,
        "generator": [torch.Generator().manual_seed(s) for s in seeds[: len(prompts)]],
        "num_inference_steps": steps,
        "guidance_scale": 5.0,
        "output_type": "latent",
        "max_sequence_length": 24,
        "height": 32,
        "width": 32,
    }
    if kind != "text":
        given |= {"image": [picture()] * len(prompts), "strength": 0.7}
    if kind == "inpaint":
        given |= {"mask_image": [region()] * len(prompts), "strength": 1.0}
    if kind == "image" and "height" not in inspect.signature(type(pipe).__call__).parameters:
        del given["height"], given["width"]
    return pipe(**{**given, **changes}).images


def alike(pipe, settings, *args, limit=1e-4, steering=None, **changes):
    """The result of a steered call whose picture is the pipeline's own."""
    with asyndm.steer(pipe, settings, **(steering or {})) as result:
        mine = made(pipe, *args, **changes)
    close(mine, made(pipe, *args, **changes), limit)
    assert hooks(pipe) == 0
    return result


def moved(pipe, settings, *args, steering=None, **changes):
    with asyndm.steer(pipe, settings, **(steering or {})) as result:
        mine = made(pipe, *args, **changes)
    return mine, result


def opened(latents):
    """[B, 16, 16, 16] of either kind, by einops where the code uses pixel_shuffle."""
    from einops import rearrange

    if latents.ndim == 4:
        return latents
    return rearrange(latents, "b (h w) (c p q) -> b c (h p) (w q)", h=8, p=2, q=2)


@pytest.mark.parametrize(("family", "kind"), EVERY)
def test_without_curvature_it_is_the_pipeline_s_own_picture(family, kind, toys):
    pipe = toys.pipe(family, kind)
    result = alike(pipe, GENERAL, kind)
    assert result.notes == [] and len(result.film) == (3 if kind == "image" else 4)
    assert [sorted(one) for one in result.words] == [["bike", "cat"], ["cats", "umbrella"]]
    rows = len(result.film) * (1 if family == "Flux" else 2)
    assert [one.rows for one in result.measured] == [rows, rows]


@pytest.mark.parametrize(("family", "kind"), EVERY)
def test_curvature_moves_it_and_a_batch_s_image_is_the_image_alone(family, kind, toys):
    pipe = toys.pipe(family, kind)
    plain, before = made(pipe, kind, steps=5), {**vars(pipe)}
    mine, result = moved(pipe, STRONG, kind, steps=5)
    assert (mine - plain).abs().flatten(1).amax(1).min() > 1e-2
    third = result.film[2].timestep
    assert third.max() > third.min() and third.max() <= (1 if family == "Flux" else 1000)
    alone, _ = moved(pipe, STRONG, kind, PROMPTS[1:], 5, seeds=(4,))
    close(alone, mine[1:])
    assert torch.equal(made(pipe, kind, steps=5), plain)
    assert vars(pipe).keys() == before.keys() and vars(pipe.scheduler).keys().isdisjoint(
        {"step", "scale_noise"}
    )


def test_an_interrupt_leaves_the_pipeline_as_it_was(toys, family):
    pipe = toys.pipe(family, "inpaint")
    plain, kind = made(pipe, "inpaint"), type(pipe)

    def stop(pipe, step, timestep, values):
        if step == 1:
            raise KeyboardInterrupt
        return values

    with asyndm.steer(pipe, STRONG) as result:
        with pytest.raises(KeyboardInterrupt):
            made(pipe, "inpaint", callback_on_step_end=stop)
        assert hooks(pipe) == 0 and len(result.film) == 2
    assert type(pipe) is kind and torch.equal(made(pipe, "inpaint"), plain)


@pytest.mark.parametrize(
    "changes",
    [
        {"guidance_scale": 1.0},
        {"negative_prompt": ["a dog", "rain"]},
        {"height": 40, "width": 24},
        {"prompts": PROMPTS[:1], "num_images_per_prompt": 2, "seeds": (3,)},
    ],
    ids=lambda changes: next(iter(changes)),
)
def test_what_a_call_may_be_given(toys, family, changes):
    changes = dict(changes)
    pipe = toys.pipe(family)
    if changes.get("num_images_per_prompt"):
        generator = torch.Generator().manual_seed(0)
        shape = (2, 64, 64) if family == "Flux" else (2, 16, 16, 16)
        changes |= {"generator": None, "latents": torch.randn(shape, generator=generator)}
    if family == "Flux" and "negative_prompt" in changes:
        if not TRUE_CFG:
            pytest.skip("this diffusers' Flux takes no negative prompt")
        changes["true_cfg_scale"] = 3.0
    result = alike(pipe, GENERAL, **changes)
    assert result.notes == [] and len(result.words) == 2
    if "height" in changes:
        assert result.masks.shape == (2, 10, 6)
    plain = made(pipe, **changes)
    assert (moved(pipe, STRONG, **changes)[0] - plain).abs().flatten(1).amax(1).min() > 1e-2


def test_callbacks_may_change_what_they_are_shown(toys, family):
    pipe = toys.pipe(family)

    def halved(pipe, step, timestep, values):
        return {"latents": values["latents"] * 0.5}

    def interrupted(pipe, step, timestep, values):
        pipe._interrupt = step == 1
        return values

    for callback in (halved, interrupted):
        result = alike(pipe, GENERAL, callback_on_step_end=callback)
        assert len(result.film) == (2 if callback is interrupted else 4)


def test_prompt_embeddings_need_their_text(toys, family):
    pipe = toys.pipe(family)
    if family == "Flux":
        cond, pooled, _ = pipe.encode_prompt(PROMPTS, None, max_sequence_length=24)
        given = {"prompt_embeds": cond, "pooled_prompt_embeds": pooled}
    else:
        names = ("prompt_embeds", "negative_prompt_embeds", "pooled_prompt_embeds",
                 "negative_pooled_prompt_embeds")  # fmt: skip
        given = dict(zip(names, pipe.encode_prompt(PROMPTS, None, None, max_sequence_length=24)))
    given["prompt"] = None
    mine, result = moved(pipe, STRONG, steering={"prompt": PROMPTS}, **given)
    asked, words = moved(pipe, STRONG)
    assert torch.equal(mine, asked) and result.words == words.words
    unknown, result = moved(pipe, STRONG, **given)
    assert torch.equal(unknown, made(pipe, **given))
    assert "pass it as steer(prompt=...)" in result.notes[0]


# --- words ---


def test_words_are_found_by_every_encoder(toys):
    pipe = toys.pipe("3.5")
    prompts = ["a cat and a bike", "rain"]
    _, result = moved(pipe, Settings(curvature=0.7, objects="cat, bike"), prompts=prompts)
    assert result.words == [{"cat": [2, 78], "bike": [5, 81]}, {}]
    assert result.notes == ["image 2: no word of its prompt is matched; it stays synchronous."]
    second = ["a dog", "a dog"]
    _, result = moved(pipe, STRONG, prompt_3=second)
    assert result.words[0] == {"cat": [2], "bike": [5]}  # T5 reads another text
    assert result.notes == ["prompt_3: object words are looked for in prompt alone."]
    _, result = moved(toys.pipe("Flux"), STRONG, prompt_2=second)
    assert result.words == [{"dog": [1]}] * 2
    assert result.notes == [
        "prompt_2: object words are looked for in prompt_2, which the network sees."
    ]


def test_stable_diffusion_3_does_without_t5(toys):
    own = toys.pipe("3.5")
    pipe = type(own)(**{**own.components, "text_encoder_3": None, "tokenizer_3": None})
    pipe.set_progress_bar_config(disable=True)
    result = alike(pipe, GENERAL)
    assert result.words == [{"cat": [2], "bike": [5]}, {"cats": [2], "umbrella": [6]}]


# --- guidance ---


def by_hand(pipe, step, steps=4, scale=5.0):
    """Stable Diffusion 3's loop written out, with a step (x, cond, uncond, s, s') -> x'."""
    cond, uncond, pooled, no = pipe.encode_prompt(PROMPTS, None, None, max_sequence_length=24)
    x = torch.cat(
        [torch.randn(1, 16, 16, 16, generator=torch.Generator().manual_seed(s)) for s in (3, 4)]
    )
    pipe.scheduler.set_timesteps(steps)
    sigmas = pipe.scheduler.sigmas
    with torch.no_grad():
        for s, after in zip(sigmas, sigmas[1:]):
            time = (1000 * s).expand(2)
            guesses = [
                x - s * pipe.transformer(x, text, pool, time).sample
                for text, pool in ((cond, pooled), (uncond, no))
            ]
            x = step(x, *guesses, s, after)
    return x


def test_guidance_on_the_pipeline_s_own_clock(toys):
    pipe = toys.pipe("3.5")
    still = {"clock": "synchronous"}

    def plus(x, cond, uncond, s, after, strength=0.3):
        """CFG++ (arXiv 2406.08070, eq. 10) on x = (1 - s) x0 + s noise."""
        noise = (x - (1 - s) * uncond) / s
        return (1 - after) * (uncond + strength * (cond - uncond)) + after * noise

    mine, result = moved(pipe, Settings(guidance="cfg++", cfgpp_lambda=0.3, **still))
    close(mine, by_hand(pipe, plus))
    assert [one.rows for one in result.measured] == [8, 8] and result.film == []

    def apg(x, cond, uncond, s, after, scale=5.0):
        """APG (arXiv 2410.02416) without momentum and norm: what is orthogonal to D_c alone."""
        delta = cond - uncond
        along = (delta * cond).sum((1, 2, 3), keepdim=True) / (cond**2).sum((1, 2, 3), keepdim=True)
        denoised = cond + (scale - 1) * (delta - along * cond)
        return x + (after - s) * (x - denoised) / s

    given = Settings(guidance="apg", apg_momentum=0.0, apg_norm=0.0, **still)
    close(moved(pipe, given)[0], by_hand(pipe, apg))


def test_guidance_beside_curvature(toys, family):
    pipe = toys.pipe(family)
    more = {}
    if family == "Flux":
        if not TRUE_CFG:
            _, result = moved(pipe, Settings(guidance="cfg++"))
            assert result.notes == [
                "guidance: this call makes nothing without the prompt, which cfg++ needs; give a "
                "negative_prompt and true_cfg_scale above 1."
            ]
            return
        more = {"negative_prompt": ["rain", "rain"], "true_cfg_scale": 5.0}
    # APG that keeps everything is CFG: the method's own way of handing on is the pipeline's
    whole = {"guidance": "apg", "apg_eta": 1.0, "apg_momentum": 0.0, "apg_norm": 0.0}
    result = alike(pipe, Settings(curvature=1e-9, **whole), **more)
    assert [one.rows for one in result.measured] == [8, 8]
    assert [round(one.w_eff, 3) for one in result.measured] == [5, 5]
    mine, result = moved(pipe, Settings(curvature=0.7, **whole), **more)
    close(mine, moved(pipe, STRONG, **more)[0])
    ways = [{"guidance": "cfg++"}, {"guidance": "cfg++w"}, {"interval_low": 0.8}]
    for changes in (*ways, {"clock": "concave"}, {"zigzag": 0.5}):
        other, result = moved(pipe, Settings(curvature=0.7, **changes), **more)
        assert (other - mine).abs().max() > 1e-2 and result.notes == []
    assert [one.rows for one in result.measured] == [8 + 2 * 3] * 2  # up without the prompt
    plain, result = moved(pipe, Settings(clock="synchronous"), **more)
    assert torch.equal(plain, made(pipe, **more)) and result.measured[0].w_eff == 5


@pytest.mark.parametrize("changes", [{"softmax": "joint"}, {"text_timestep": "objects"}])
def test_settings_of_transformers_act(toys, family, changes):
    pipe = toys.pipe(family)
    settings = Settings(curvature=0.7, threshold=1.05, **changes)
    other, result = moved(pipe, settings)
    assert result.notes == []
    assert (other - moved(pipe, Settings(curvature=0.7, threshold=1.05))[0]).abs().max() > 1e-4


# --- masks ---


def test_given_masks_steer_where_they_are(toys, family):
    pipe = toys.pipe(family)
    square = np.zeros((32, 32), np.float32)
    square[8:24, 4:20] = 1
    given = Settings(curvature=0.7, mask_source="given")
    mine, result = moved(pipe, given, steering={"mask": square})
    assert (result.masks[0][INSIDE] == 1).all() and result.masks.mean() == 0.25
    assert (mine - made(pipe)).abs().max() > 1e-2
    alike(pipe, Settings(curvature=1e-9, mask_source="given"), steering={"mask": square})


def test_fixed_masks_are_read_in_a_pass_of_their_own(toys, family):
    pipe = toys.pipe(family)
    _, result = moved(pipe, Settings(curvature=0.7, mask_source="fixed"))
    each = 8 if family == "Flux" else 16
    assert [one.rows for one in result.measured] == [each, each]
    assert set(np.unique(result.masks)) == {0.0, 1.0}
    alike(pipe, Settings(curvature=1e-9, mask_source="fixed"))


def test_inpainting_keeps_what_it_keeps(toys, family):
    pipe = toys.pipe(family, "inpaint")
    plain = opened(made(pipe, "inpaint"))
    outside = torch.ones(16, 16, dtype=torch.bool)
    outside[INSIDE] = False
    for settings in (STRONG, Settings(curvature=1e-9, lead=0.6)):
        mine, result = moved(pipe, settings, "inpaint")
        mine = opened(mine)
        assert torch.equal(mine[..., outside], plain[..., outside])
        assert (mine - plain)[..., ~outside].abs().max() > 1e-2 and result.notes == []
    clock = torch.stack([frame.clock[0] for frame in result.film])
    here = clock[:, 0, 0]  # what leads runs at (1 - lead) times the distance that is left
    torch.testing.assert_close(here, 3 - 0.4 * (3 - torch.arange(4.0)), check_dtype=False)


def test_what_leads_is_blended_at_its_own_noise_level(toys, family):
    pipe = toys.pipe(family, "inpaint")
    seen = []

    def keep(pipe, step, timestep, values):
        seen.append(opened(values["latents"].clone()))
        return values

    settings = Settings(curvature=0.0001, lead=0.6, mask_source="given")
    _, result = moved(pipe, settings, "inpaint", callback_on_step_end=keep)
    clean, noises = seen[-1][..., 0, 0], []
    for step, latents in enumerate(seen[:-1]):
        level = result.film[step + 1].sigma[0, 0, 0]
        assert level < pipe.scheduler.sigmas[step + 1] or step == 2  # where all arrive
        noises.append((latents[..., 0, 0] - (1 - level) * clean) / level)
    for noise in noises[1:]:  # one noise, at each step's own level
        torch.testing.assert_close(noise, noises[0], atol=1e-3, rtol=1e-3)


# --- schedulers ---


@pytest.mark.parametrize(
    "changes",
    [
        {"shift": 1.0},
        {"use_karras_sigmas": True},
        {"shift_terminal": 0.1},
        {"stochastic_sampling": True},
    ],
    ids=lambda changes: next(iter(changes)),
)
def test_a_scheduler_s_own_list_is_honoured(toys, family, changes, monkeypatch):
    pipe = toys.pipe(family)
    kind = diffusers.FlowMatchEulerDiscreteScheduler
    if next(iter(changes)) not in inspect.signature(kind.__init__).parameters:
        pytest.skip("this diffusers does not know it")
    monkeypatch.setattr(pipe, "scheduler", kind.from_config(pipe.scheduler.config, **changes))
    torch.manual_seed(5)
    plain = made(pipe)
    torch.manual_seed(5)
    mine, _ = moved(pipe, GENERAL)
    close(mine, plain)


# --- what has no form ---


def test_what_has_no_form_is_one_line_each(toys, monkeypatch):
    pipe = toys.pipe("3.5")
    for name in ("pag", "seg", "tpg", "s-cfg"):
        with pytest.raises(UnsupportedNetwork, match="choose cfg, apg, cfg"):
            moved(pipe, Settings(guidance=name))
    with pytest.raises(SettingsError, match="skip_guidance_layers"):
        if "skip_guidance_layers" not in inspect.signature(type(pipe).__call__).parameters:
            raise SettingsError("skip_guidance_layers: not in this diffusers")
        moved(pipe, STRONG, skip_guidance_layers=[0])
    _, result = moved(pipe, Settings(curvature=0.7, norms="levelled", eta=0.5))
    assert result.notes == [
        "norms: a transformer has no group norms; it changes nothing.",
        "eta: it changes nothing beside FlowMatchEulerDiscreteScheduler.",
    ]
    heun = diffusers.FlowMatchHeunDiscreteScheduler.from_config(pipe.scheduler.config)
    monkeypatch.setattr(pipe, "scheduler", heun)
    with pytest.raises(UnsupportedNetwork, match="rectified-flow models; set pipe.sched"):
        moved(pipe, STRONG)


def test_networks_that_cannot_be_looked_into(toys, family):
    own = toys.pipe(family)
    pipe = type(own)(**{**own.components, "transformer": copy.deepcopy(own.transformer)})
    pipe.set_progress_bar_config(disable=True)
    if family == "3.5" or hasattr(pipe.transformer, "fuse_qkv_projections"):
        pipe.transformer.fuse_qkv_projections()
        with pytest.raises(UnsupportedNetwork, match="unfuse_qkv_projections"):
            moved(pipe, STRONG)
        pipe.transformer.unfuse_qkv_projections()
    if hasattr(pipe.transformer, "enable_cache"):
        pipe.transformer.enable_cache(diffusers.FirstBlockCacheConfig(threshold=0.1))
        with pytest.raises(UnsupportedNetwork, match="disable_cache"):
            moved(pipe, STRONG)
        pipe.transformer.disable_cache()
    assert torch.equal(moved(pipe, STRONG)[0], moved(own, STRONG)[0])  # the remedies are some
    pipe.transformer.compile()
    with pytest.raises(UnsupportedNetwork, match="switch torch.compile off"):
        moved(pipe, STRONG)


def test_lora_and_offloading(toys, family, monkeypatch):
    accelerate = pytest.importorskip("accelerate", reason="pip install peft accelerate")
    peft = pytest.importorskip("peft", reason="pip install peft accelerate")
    own = toys.pipe(family)
    pipe = type(own)(**{**own.components, "transformer": copy.deepcopy(own.transformer)})
    pipe.set_progress_bar_config(disable=True)
    plain = made(pipe)
    torch.manual_seed(2)
    pipe.transformer.add_adapter(
        peft.LoraConfig(r=4, init_lora_weights=False, target_modules=["to_q", "to_k", "linear"])
    )
    assert (made(pipe) - plain).abs().max() > 1e-2
    alike(pipe, GENERAL)
    whole, _ = moved(pipe, STRONG)
    accelerate.cpu_offload(pipe.transformer.requires_grad_(False), torch.device("cpu"))
    monkeypatch.setattr(type(pipe), "_execution_device", torch.device("cpu"))
    assert torch.equal(moved(pipe, STRONG)[0], whole)


def test_half_precision(toys, family):
    own = toys.pipe(family)
    parts = {
        name: copy.deepcopy(part).to(torch.bfloat16) if isinstance(part, torch.nn.Module) else part
        for name, part in own.components.items()
    }
    pipe = type(own)(**parts)
    pipe.set_progress_bar_config(disable=True)
    plain = made(pipe)
    mine, result = moved(pipe, GENERAL)
    assert mine.dtype == torch.bfloat16 and len(result.film) == 4
    close(mine.float(), plain.float(), 0.05)
    assert (moved(pipe, STRONG)[0] - plain).abs().max() > 0.1
