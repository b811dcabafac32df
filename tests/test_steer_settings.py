"""asyndm.steer: settings, masks, guidance, adapters and what a call may be given."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from steer_toys import GENERAL, PROMPTS, STRONG, Toys, close, hooks, made, schedule, steered

from asyndm import Settings
from asyndm.core.masks import DynamicMasks
from asyndm.core.run import Director
from asyndm.core.sampling import sample_asyndm
from asyndm.core.settings import SettingsError
from asyndm.guidance import Guide
from asyndm.guidance.denoiser import MethodDenoiser
from asyndm.network import attach
from asyndm.pipelines.prompts import PipelineWords
from asyndm.pipelines.schedulers import HostTimesteps, form_of, parametrisation_of

SQUARE = np.zeros((32, 32), np.float32)
SQUARE[8:24, 4:20] = 1
INSIDE = (slice(4, 12), slice(2, 10))  # of the latents


@pytest.fixture(scope="module")
def toys(tmp_path_factory):
    return Toys(tmp_path_factory.mktemp("steer"))


@pytest.fixture
def pipe(toys, monkeypatch):
    pipe = toys.pipe()
    schedule(pipe, monkeypatch)
    return pipe


def by_the_core(pipe, settings, rule, steps=4, scale=5.0):
    """The same run by the core's own loop: (latents, rows and guidance of each image)."""
    scheduler = pipe.scheduler
    scheduler.set_timesteps(steps)
    parametrisation, form = parametrisation_of(scheduler), form_of(scheduler)
    levels = form.levels(scheduler, 0, steps)
    words = PipelineWords(pipe, PROMPTS, settings.objects)
    capture = words.capture()
    masks = DynamicMasks(
        capture, words.curvatures(settings.curvature), threshold=settings.threshold,
        smoothing=settings.smoothing, soft=settings.soft,
    )  # fmt: skip
    director = Director.from_settings(
        settings, parametrisation, masks, timestep=HostTimesteps(parametrisation, levels)
    )
    guide = Guide(settings, parametrisation, director.call, 2, steps)
    guide.begin(levels.sigmas.tolist())
    generators = [torch.Generator().manual_seed(seed) for seed in (3, 4)]

    def noise(*ends):
        return torch.stack([torch.randn(4, 16, 16, generator=each) for each in generators])

    start = (1 + levels.sigmas[0] ** 2).sqrt() if form.preserving else scheduler.init_noise_sigma
    cond, uncond = pipe.encode_prompt(PROMPTS, "cpu", 1, True)
    rule = guide.rule(rule, eta=1.0 if rule == "ddpm" else None)
    unet = pipe.unet
    with torch.no_grad(), attach(unet, director.call, capture), guide.watching(unet):
        latents = sample_asyndm(
            MethodDenoiser(unet, parametrisation, director.call, guide),
            (noise() * start).float(),
            levels.sigmas.float(),
            extra_args={"cond": cond, "uncond": uncond, "cond_scale": scale},
            disable=True,
            director=director,
            rule=rule,
            passes=guide.passes,
            uncond=lambda: guide.uncond,
            noise_sampler=noise,
        )
    return latents, guide.measured()


@pytest.mark.parametrize(
    ("scheduler", "rule", "changes"),
    [
        ("EulerDiscreteScheduler", "euler", {"objects": "cat:0.3, bike:0.9"}),
        ("EulerDiscreteScheduler", "euler", {"guidance": "seg", "curve": "exponential"}),
        ("EulerDiscreteScheduler", "euler", {"guidance": "pag", "start": 0.2, "end": 0.7}),
        ("EulerDiscreteScheduler", "euler", {"guidance": "tpg", "origin": "paper"}),
        ("EulerAncestralDiscreteScheduler", "ddpm", {"guidance": "cfg++w"}),
        ("EulerAncestralDiscreteScheduler", "ddpm", {"guidance": "s-cfg", "soft": True}),
        (
            "EulerAncestralDiscreteScheduler",
            "ddpm",
            {"guidance": "apg", "first_step": "background"},
        ),
        ("DPMSolverMultistepScheduler", "dpmpp_2m", {"guidance": "cfg++", "smoothing": 0.5}),
        ("DPMSolverMultistepScheduler", "dpmpp_2m", {"zigzag": 0.5, "zigzag_up": 1.0}),
        ("DPMSolverMultistepScheduler", "dpmpp_2m", {"interval_low": 0.5, "interval_high": 8.0}),
        ("DPMSolverMultistepScheduler", "dpmpp_2m", {"threshold": 1.1, "origin": "paper"}),
    ],
)
def test_the_pipeline_s_loop_is_the_core_s(pipe, scheduler, rule, changes, monkeypatch):
    """Masks, clocks, guidance: by two loops, the pipeline's and the core's own."""
    schedule(pipe, monkeypatch, scheduler)
    settings = Settings(curvature=0.7, **changes)
    latents, measured = by_the_core(pipe, settings, rule)
    mine, result = steered(pipe, settings)
    # S-CFG's regions are where a token has most attention: rounding decides where two are alike.
    close(mine, latents, 2e-2 if settings.guidance == "s-cfg" else 1e-4)
    assert [one.rows for one in result.measured] == [one.rows for one in measured]
    if measured[0].w_eff is not None:
        found = [one.w_eff for one in result.measured]
        assert found == pytest.approx([one.w_eff for one in measured], rel=1e-3)
    assert result.notes == [] and hooks(pipe) == 0
    assert (mine - made(pipe)).abs().max() > 1e-2


def test_guidance_alone_stays_on_the_pipeline_s_clock(pipe):
    still = {"clock": "synchronous"}
    assert torch.equal(steered(pipe, Settings(**still))[0], made(pipe))
    perturbed, result = steered(pipe, Settings(guidance="pag", **still))
    assert result.measured[0].rows == 12 and result.film == []
    again, _ = steered(pipe, Settings(guidance="pag", perturbed_scale=0.0, **still))
    close(again, made(pipe))
    assert (perturbed - again).abs().max() > 1e-2
    pace, result = steered(pipe, Settings(curvature=0.7, clock="concave"))
    assert result.masks.min() == 1 and (pace - made(pipe)).abs().max() > 1e-2


def test_guidance_rescale_acts_beside_every_method(pipe):
    plain = made(pipe, guidance_rescale=0.7)
    close(steered(pipe, GENERAL, guidance_rescale=0.7)[0], plain)
    # PAG without strength is plain guidance: the method's own way of handing on is rescaled, too
    nothing = Settings(curvature=1e-9, guidance="pag", perturbed_scale=0.0)
    close(steered(pipe, nothing, guidance_rescale=0.7)[0], plain)
    _, result = steered(pipe, Settings(guidance="cfg++"), guidance_scale=1.0)
    assert "at this guidance_scale the pipeline makes nothing without" in result.notes[0]
    assert result.measured[0].rows == 4


@pytest.mark.parametrize(
    "changes",
    [
        {"guidance_scale": 1.0},
        {"negative_prompt": ["a dog", "rain"]},
        {"clip_skip": 1},
        {"prompts": PROMPTS[:1], "num_images_per_prompt": 2, "seeds": (3,), "same": True},
    ],
    ids=lambda changes: next(iter(changes)),
)
def test_what_a_call_may_be_given(pipe, changes):
    changes = dict(changes)
    if changes.pop("same", False):
        changes["generator"] = None
        changes["latents"] = torch.randn(2, 4, 16, 16, generator=torch.Generator().manual_seed(0))
    plain = made(pipe, **changes)
    same, result = steered(pipe, GENERAL, **changes)
    close(same, plain)
    assert result.notes == [] and len(result.words) == 2
    assert (steered(pipe, STRONG, **changes)[0] - plain).abs().amax((1, 2, 3)).min() > 1e-2


def test_prompt_embeddings_need_their_text(pipe):
    cond, uncond = pipe.encode_prompt(PROMPTS, "cpu", 1, True)
    given = {"prompt": None, "prompt_embeds": cond, "negative_prompt_embeds": uncond}
    moved, _ = steered(pipe, STRONG)
    mine, result = steered(pipe, STRONG, steering={"prompt": PROMPTS}, **given)
    assert torch.equal(mine, moved) and result.notes == []
    unknown, result = steered(pipe, STRONG, **given)
    assert torch.equal(unknown, made(pipe)) and "pass it as steer(prompt=...)" in result.notes[0]
    with pytest.raises(SettingsError, match="1 texts do not fit 2 prompt embeddings"):
        steered(pipe, STRONG, steering={"prompt": PROMPTS[:1]}, **given)
    # Chunks of 77, as those are made who encode long prompts: start, 75 pieces, end.
    given |= {
        "prompt_embeds": torch.cat([cond, cond], 1),
        "negative_prompt_embeds": torch.cat([uncond, uncond], 1),
    }
    text = "a photo of " + "very " * 80 + "cat"
    _, result = steered(pipe, STRONG, steering={"prompt": text}, **given)
    assert result.words == [{"cat": [77 + 1 + 83 - 75]}] * 2


def test_callbacks_may_change_what_they_are_shown(pipe):
    def unguided(pipe, step, timestep, values):
        """As diffusers' own CFG cutoff."""
        if step == 1:
            pipe._guidance_scale = 0.0
            values["prompt_embeds"] = values["prompt_embeds"][2:]
        return values

    def halved(pipe, step, timestep, values):
        return {"latents": values["latents"] * 0.5}

    def interrupted(pipe, step, timestep, values):
        pipe._interrupt = step == 1
        return values

    for callback in (unguided, halved, interrupted):
        names = ["latents", "prompt_embeds"] if callback is unguided else ["latents"]
        given = {
            "callback_on_step_end": callback, "callback_on_step_end_tensor_inputs": names,
        }  # fmt: skip
        close(steered(pipe, GENERAL, **given)[0], made(pipe, **given))
        _, result = steered(pipe, STRONG, **given)
        assert len(result.film) == (2 if callback is interrupted else 4)


def test_a_generator_nobody_gave_is_drawn_from_alike(pipe, monkeypatch):
    schedule(pipe, monkeypatch, "DDIMScheduler")
    pictures = []
    for settings in (None, GENERAL, Settings(curvature=1e-9, mask_source="fixed")):
        torch.manual_seed(7)
        given = {"generator": None, "eta": 0.6}
        if settings is None:
            pictures.append(made(pipe, **given))
        else:
            pictures.append(steered(pipe, settings, **given)[0])
    close(pictures[1], pictures[0])
    close(pictures[2], pictures[0])


@pytest.mark.parametrize("kind", ["EulerDiscreteScheduler", "DPMSolverMultistepScheduler"])
def test_two_pipelines_share_one_denoising(toys, kind, monkeypatch):
    """SDXL's base stops early and a second one goes on; a checkpoint is as good as its pipeline."""
    from asyndm.pipelines import Checkpoint

    base, refiner = toys.pipe("XL"), toys.pipe("XL", "image")
    for pipe in (base, refiner):
        schedule(pipe, monkeypatch, kind)
    plain = made(base, steps=6, denoising_end=0.6)
    same, result = steered(Checkpoint(base), GENERAL, steps=6, denoising_end=0.6)
    close(same, plain)
    given = {"steps": 6, "denoising_start": 0.6, "image": plain}
    after, second = steered(refiner, GENERAL, "image", **given)
    close(after, made(refiner, "image", **given))
    assert 0 < len(second.film) < 6 and len(result.film) + len(second.film) == 6
    # All pixels are at one level where the first stops.
    last = result.film[-1].sigma
    torch.testing.assert_close(last, last[0, 0, 0].expand(last.shape))


# --- masks ---


def test_masks_are_read_at_a_resolution_of_ones_own(pipe):
    """The toys' attention is 16x16 and 8x8 of 16x16 latents."""
    plain, _ = steered(pipe, STRONG)
    moved, result = steered(pipe, STRONG, steering={"grid": 8})
    assert result.masks.shape == (2, 8, 8) and result.notes == []
    assert (moved - plain).abs().max() > 1e-2
    same, result = steered(pipe, STRONG, steering={"grid": 15})  # the nearest is taken
    assert result.masks.shape == (2, 16, 16) and torch.equal(same, plain)
    with pytest.raises(SettingsError, match="grid: 0"):
        steered(pipe, STRONG, steering={"grid": 0})


def test_given_masks_steer_where_they_are(pipe):
    given = Settings(curvature=0.7, mask_source="given")
    moved, result = steered(pipe, given, steering={"mask": SQUARE})
    assert (result.masks[0][INSIDE] == 1).all() and result.masks.mean() == 0.25
    clock = result.film[2].clock[0]
    assert (clock[INSIDE] < 2).all() and (clock == 2).sum() == 192
    assert (moved - made(pipe)).abs().max() > 1e-2
    two = [{"mask": SQUARE, "k": 0.2, "word": "cat"}, {"mask": 1 - SQUARE, "k": 0.9}]
    _, result = steered(pipe, given, steering={"masks": two})
    slow = [2 - (4 - 1 - 2) * 2 * k / 3 for k in (0.9, 0.2)]
    assert sorted({*result.film[2].clock.flatten().tolist()}) == pytest.approx(slow)
    # No prompt is needed for them.
    cond, uncond = pipe.encode_prompt(PROMPTS, "cpu", 1, True)
    words = {"prompt": None, "prompt_embeds": cond, "negative_prompt_embeds": uncond}
    assert torch.equal(steered(pipe, given, steering={"mask": SQUARE}, **words)[0], moved)
    with pytest.raises(SettingsError, match="no mask was given; pass mask="):
        steered(pipe, given)
    with pytest.raises(SettingsError, match="acts with mask_source='given' only"):
        steered(pipe, STRONG, steering={"mask": SQUARE})


def test_fixed_masks_are_read_in_a_pass_of_their_own(pipe):
    calls = []

    def count(pipe, step, timestep, values):
        calls.append(step)
        return values

    settings = Settings(curvature=0.7, mask_source="fixed", smoothing=0.2)
    moved, result = steered(pipe, settings, callback_on_step_end=count)
    assert calls == [0, 1, 2, 3] and [one.rows for one in result.measured] == [16, 16]
    assert set(np.unique(result.masks)) == {0.0, 1.0}  # the same in every step
    assert result.notes == ["smoothing: fixed masks are known from the start; it changes nothing."]
    close(steered(pipe, Settings(curvature=1e-9, mask_source="fixed"))[0], made(pipe))
    assert hooks(pipe) == 0 and "step" not in vars(pipe.scheduler)


def test_inpainting_keeps_what_it_keeps(toys):
    pipe = toys.pipe("1.5", "inpaint")
    plain = made(pipe, "inpaint")
    outside = torch.ones(16, 16, dtype=torch.bool)
    outside[INSIDE] = False
    moved, result = steered(pipe, Settings(curvature=0.7, mask_source="given"), "inpaint")
    assert (result.masks[0][INSIDE] == 1).all() and result.masks.mean() == 0.25
    for settings in (STRONG, Settings(curvature=1e-9, lead=0.6)):
        moved, result = steered(pipe, settings, "inpaint")
        assert torch.equal(moved[..., outside], plain[..., outside])
        assert (moved - plain)[..., ~outside].abs().max() > 1e-2
        assert (result.masks[0][outside.numpy()] == 0).all() and result.notes == []
    # What leads runs at (1 - lead) times the distance that is left.
    ahead = [frame.clock[0][outside] for frame in result.film]
    for step, clock in enumerate(ahead):
        torch.testing.assert_close(clock, torch.full_like(clock, 3 - 0.4 * (3 - step)))
    _, result = steered(toys.pipe("1.5", "inpaint 9"), Settings(lead=0.6), "inpaint 9")
    assert result.notes == ["lead: this network repaints everything; it changes nothing."]


def test_what_leads_is_blended_at_its_own_noise_level(toys):
    pipe = toys.pipe("1.5", "inpaint")
    seen = []
    settings = Settings(curvature=0.0001, lead=0.6, mask_source="given")

    def keep(pipe, step, timestep, values):
        seen.append(values["latents"].clone())
        return values

    _, result = steered(pipe, settings, "inpaint", callback_on_step_end=keep)
    clean = seen[-1]
    alphas = pipe.scheduler.alphas_cumprod
    noises = []
    for step, latents in enumerate(seen[:-1]):
        level = result.film[step + 1].sigma[0, 0, 0]
        alpha = 1 / (1 + level**2)
        assert alpha > alphas[pipe.scheduler.timesteps[step + 1]]
        noises.append((latents - alpha.sqrt() * clean)[..., 0, 0] / (1 - alpha).sqrt())
    for noise in noises[1:]:  # one noise, at each step's own level
        torch.testing.assert_close(noise, noises[0], atol=1e-3, rtol=1e-3)


def test_what_cannot_act_is_said(pipe):
    settings = Settings(
        curvature=0.7, objects="cat, zebra", hires=False, eta=0.5, lead=0.5, mask_grow=3.0,
        seg_blur=5.0,
    )  # fmt: skip
    _, result = steered(pipe, settings, prompts=["a cat", "rain"])
    assert result.notes == [
        "seg_blur: it is of seg; it changes nothing beside cfg.",
        "hires: it is of WebUIs; it changes nothing here.",
        "mask_grow: it changes given masks only.",
        "eta: it changes nothing beside EulerDiscreteScheduler.",
        "lead: nothing is kept; it acts in inpainting pipelines only.",
        "objects: 'zebra' is not in the prompt; it steers nothing.",
        "image 2: no word of its prompt is matched; it stays synchronous.",
    ]
    alone = made(pipe, prompts=["rain"], seeds=(4,))
    close(steered(pipe, settings, prompts=["a cat", "rain"])[0][1:], alone)
