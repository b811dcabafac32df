"""The embedded model as a host: methods, batches, masks, clean-up."""

import dataclasses

import numpy as np
import pytest
import torch

from asyndm.core import masks
from asyndm.core.parametrisation import VParametrisation
from asyndm.core.settings import Settings, SettingsError
from asyndm.network.denoiser import GuidedDenoiser
from asyndm.scenes.model import SceneModel, training_alphas
from asyndm.scenes.pipeline import METHODS, Request, ScenePipeline
from asyndm.scenes.text import PromptError

PROMPT = "two red circles and a blue square on a lake"


@pytest.fixture(scope="module")
def pipeline():
    return ScenePipeline.random()


def hooks(module):
    return sum(len(part._forward_hooks) + len(part._forward_pre_hooks) for part in module.modules())


def request(**changes):
    return Request(**{"prompt": PROMPT, "steps": 4, **changes})


def test_every_method_gives_pictures_verdicts_and_the_film(pipeline):
    result = pipeline.generate(request(batch=2), Settings(enabled=True), METHODS)
    assert set(result.images) == set(METHODS)
    for method in METHODS:
        assert [image.size for image in result.images[method]] == [(64, 64)] * 2
        assert len(result.verdicts[method]) == 2
    assert list(result.matched) == ["circles", "square"] and not result.unmatched
    assert [result.tokens[i] for i in result.matched["square"]] == ["square"]
    film = result.film
    assert len(film.masks) == len(film.timesteps) == len(film.previews) == 4
    assert film.masks[0].min() == 1  # before the first mask every pixel counts as object
    assert 0 < film.masks[1].mean() < 1
    assert len(np.unique(film.timesteps[2])) == 2
    assert hooks(pipeline.model) == 0


def test_no_curvature_is_the_synchronous_picture(pipeline):
    settings = Settings(enabled=True, curvature=1e-9)
    result = pipeline.generate(request(), settings, ("synchronous", "asyndm", "concave"))
    plain = np.asarray(result.images["synchronous"][0], int)
    for method in ("asyndm", "concave"):
        assert np.abs(plain - np.asarray(result.images[method][0], int)).max() <= 1


@pytest.mark.parametrize("rule", ["ddpm", "euler", "dpmpp_2m"])
@pytest.mark.parametrize("mask_source", ["dynamic", "fixed"])
def test_an_image_of_a_batch_equals_the_image_made_alone(pipeline, rule, mask_source):
    settings = Settings(enabled=True, mask_source=mask_source, curvature=0.8)
    prompts = [PROMPT, "a green star above a purple triangle", "a yellow circle at night"]
    how = request(rule=rule)
    together = pipeline.sample(prompts, [5, 6, 7], "asyndm", settings, how).latents
    for j, prompt in enumerate(prompts):
        alone = pipeline.sample([prompt], [5 + j], "asyndm", settings, how).latents
        torch.testing.assert_close(together[j : j + 1], alone, atol=1e-4, rtol=1e-4)


def test_the_fixed_mask_is_the_average_over_a_synchronous_base_pass(pipeline):
    settings = Settings(enabled=True, mask_source="fixed")
    base = pipeline.sample([PROMPT], [0], "synchronous", settings, request(), keep_maps=True).maps
    mask = (base >= base.mean((-2, -1), keepdim=True)).any(1)[0]
    film = pipeline.generate(request(), settings, ("asyndm",)).film
    for frame in film.masks:
        assert np.array_equal(frame, mask.numpy().astype(np.float32))


def test_objects_have_curvatures_of_their_own(pipeline):
    settings = Settings(enabled=True, objects="circles:0.9, square:0.2", first_step="background")
    film = pipeline.generate(request(), settings, ("asyndm",)).film
    assert len(np.unique(film.timesteps[2])) == 3  # background, 0.2 and 0.9


def test_a_painted_mask_steers_where_it_was_painted(pipeline):
    painted = np.zeros((256, 256))
    painted[:128, 128:] = 1
    settings = Settings(enabled=True, mask_source="given")
    film = pipeline.generate(request(painted=painted), settings, ("asyndm",)).film
    expected = np.kron([[0, 1], [0, 0]], np.ones((8, 8)))
    assert np.array_equal(film.masks[0], expected) and np.array_equal(film.masks[3], expected)
    late = film.timesteps[2][:8, 8:]
    assert late.min() > film.timesteps[2][8:].max()


@pytest.mark.parametrize("shape", [(300, 200), (8, 8), (64, 64, 3)])
def test_a_mask_of_the_wrong_size_is_one_line(shape):
    with pytest.raises(SettingsError, match="^painted mask: .*") as caught:
        request(painted=np.ones(shape))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"steps": 0}, "steps"),
        ({"steps": 2.5}, "steps"),
        ({"seed": -1}, "seed"),
        ({"cfg": float("nan")}, "cfg"),
        ({"rule": "heun"}, "rule"),
        ({"schedule": "spiral"}, "schedule"),
        ({"coupling": 0.3}, "coupling"),
        ({"batch": 99}, "batch"),
        ({"prompt": None}, "prompt"),
        ({"painted": np.full((64, 64), 7.0)}, "painted mask"),
        ({"painted": np.zeros((64, 64))}, "painted mask"),
    ],
)
def test_a_value_out_of_range_is_named(changes, named):
    with pytest.raises(SettingsError, match=f"^{named}: "):
        request(**changes)


def test_unmatched_words_are_named_and_the_picture_is_made(pipeline):
    some = pipeline.generate(request(), Settings(enabled=True, objects="circles, whale"))
    assert some.unmatched == ["whale"] and "'whale'" in some.notes[0]
    none = pipeline.generate(request(), Settings(enabled=True, objects="whale"))
    assert "synchronous" in none.notes[-1]
    synchronous, asyndm = (np.asarray(none.images[m][0]) for m in ("synchronous", "asyndm"))
    assert np.array_equal(synchronous, asyndm)


def test_a_prompt_that_cannot_be_read_is_refused_before_anything_runs(pipeline):
    with pytest.raises(PromptError, match="'dragon'"):
        pipeline.generate(request(prompt="a red dragon"), Settings(enabled=True))


class Stop(BaseException):
    """What a host raises to interrupt; not an Exception, as in the WebUI."""


@pytest.mark.parametrize("step", range(4))
@pytest.mark.parametrize("error", [Stop, RuntimeError])
@pytest.mark.parametrize("method", ["asyndm", "concave", "oracle"])
def test_an_error_at_any_step_leaves_nothing_behind(pipeline, step, error, method):
    def attributes():
        return {
            name: (sorted(part.__dict__), part.forward.__func__)
            for name, part in pipeline.model.named_modules()
        }

    before = attributes()
    modules = {name: id(part) for name, part in pipeline.model.named_modules()}

    def report(done, calls):
        if done == step + 1:
            raise error

    with pytest.raises(error):
        pipeline.sample([PROMPT], [0], method, Settings(enabled=True), request(), report=report)
    assert hooks(pipeline.model) == 0
    assert attributes() == before
    assert modules == {name: id(part) for name, part in pipeline.model.named_modules()}


def test_global_random_state_is_untouched(pipeline):
    torch.manual_seed(1)
    before = torch.get_rng_state()
    pipeline.generate(request(batch=2), Settings(enabled=True), ("synchronous", "asyndm"))
    assert torch.equal(before, torch.get_rng_state())


def test_progress_rises_to_one(pipeline):
    seen = []
    settings = Settings(enabled=True, mask_source="fixed")
    pipeline.generate(request(), settings, progress=lambda part, text: seen.append(part))
    assert seen == sorted(seen) and seen[-1] == 1.0


def test_guidance_of_one_leaves_the_unconditional_rows_out(pipeline):
    rows = []
    handle = pipeline.model.unet.register_forward_pre_hook(
        lambda module, args: rows.append(len(args[0]))
    )
    try:
        pipeline.generate(request(cfg=1, batch=2), Settings(enabled=True), ("asyndm",))
        pipeline.generate(request(cfg=2, batch=2), Settings(enabled=True), ("asyndm",))
    finally:
        handle.remove()
    assert rows == [2] * 4 + [4] * 4


def test_the_guided_denoiser_equals_the_formula(pipeline):
    parametrisation = VParametrisation(training_alphas())
    denoiser = GuidedDenoiser(pipeline.model.unet, parametrisation)
    x = torch.randn(2, 10, 16, 16, generator=torch.Generator().manual_seed(1))
    cond = pipeline.model.encode_tokens([["<context 1>", "star", "<end>"]] * 2)
    uncond = pipeline.model.encode_tokens([["<context 1>", "<end>"]] * 2)
    sigma = torch.tensor([2.0, 2.0])
    guided = denoiser(x, sigma, cond=cond, uncond=uncond, cond_scale=3.0)
    c_skip, c_out, c_in = 1 / 5, -2 / 5**0.5, 1 / 5**0.5  # Salimans & Ho 2022 at sigma 2
    timestep = parametrisation.timestep(sigma).float()

    def predict(context):
        v = pipeline.model.unet(x * c_in, timestep, encoder_hidden_states=context).sample
        return c_skip * x + c_out * v

    one, two = predict(uncond), predict(cond)
    torch.testing.assert_close(guided, one + 3 * (two - one), atol=1e-4, rtol=1e-4)


def test_weights_survive_saving(tmp_path, pipeline):
    path = tmp_path / "weights.safetensors"
    pipeline.model.save(path)
    assert path.stat().st_size < 12e6
    again = SceneModel.load(path).state_dict()
    for name, value in pipeline.model.state_dict().items():
        torch.testing.assert_close(again[name].float(), value.float(), atol=2e-3, rtol=2e-3)


def test_missing_weights_are_one_line(tmp_path):
    with pytest.raises(FileNotFoundError, match="^weights: "):
        ScenePipeline.load(tmp_path / "none.safetensors")


@pytest.mark.parametrize(("world", "least"), [("shadows", 3), ("auroras", 5)])
def test_a_shipped_model_follows_prompts(world, least):
    """Fully right pictures at the default settings; far above an untrained model's zero."""
    shipped = ScenePipeline.load(world)
    prompts = [
        "a red circle",
        "a blue square on a lake",
        "a green star at night",
        "a yellow triangle in the snow",
        "a red square and a yellow star",
        "two purple triangles on a beach",
        "a red triangle left of a blue star",
        "three red circles in a meadow",
    ]
    how = dataclasses.replace(request(), steps=20)
    latents = shipped.sample(prompts, list(range(8)), "synchronous", Settings(), how).latents
    from asyndm.scenes.checker import check
    from asyndm.scenes.text import parse_prompt

    pixels = shipped.model.decode_pixels(latents).numpy()
    right = [check(image, parse_prompt(p)).right for image, p in zip(pixels, prompts)]
    assert sum(right) >= least


TWICE = "a red circle above a blue circle"


@pytest.mark.parametrize("mask_source", ["dynamic", "fixed"])
def test_a_word_that_occurs_twice_is_the_union_of_one_mask_an_occurrence(
    pipeline, monkeypatch, mask_source
):
    """As in the hosts: not the mask of an averaged map."""
    read = []
    steer = masks.steer

    def watched(maps, *how):
        read.append(maps)
        return steer(maps, *how)

    monkeypatch.setattr(masks, "steer", watched)
    settings = Settings(enabled=True, objects="circle:0.7", mask_source=mask_source)
    film = pipeline.generate(request(prompt=TWICE), settings, ("asyndm",)).film
    first, second = read[0][0]  # one map an occurrence
    assert not torch.equal(first, second)
    union = masks.binary_masks(torch.stack([first, second])).any(0).numpy()
    assert np.array_equal(film.masks[1], union)
