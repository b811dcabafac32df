"""asyndm.steer: Stable Diffusion 3.5 and Flux, on tiny checkpoints in their real folder layout.

Runs on diffusers 0.31 and on the newest; 0.27 has no Flux.
"""

from __future__ import annotations

import pytest
import torch
from steer_flow_toys import EVERY, FAMILIES, TRUE_CFG, Toys, alike, made, moved
from steer_toys import GENERAL, PROMPTS, STRONG, close, hooks

import asyndm
from asyndm import Settings


@pytest.fixture(scope="module")
def toys(tmp_path_factory):
    return Toys(tmp_path_factory.mktemp("flow"))


@pytest.fixture(params=FAMILIES)
def family(request):
    return request.param


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
