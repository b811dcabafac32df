"""A painted region drawn anew by both methods, and the example that the studio shows."""

from __future__ import annotations

import importlib.util
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from asyndm.bench import repaint as bench
from asyndm.core.settings import SettingsError
from asyndm.scenes.edit import CURVATURE, edit, example
from asyndm.scenes.pipeline import Request, ScenePipeline
from asyndm.scenes.text import PromptError
from asyndm.scenes.world import WITH_WEIGHTS

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def pipeline():
    return ScenePipeline.load()


@pytest.fixture(scope="module")
def shown():
    return example()


@pytest.mark.parametrize("world", WITH_WEIGHTS)
def test_the_example_is_what_the_model_makes(world):
    """Its pictures are a file's; another torch may round a few pixels otherwise."""
    pipeline, shown = ScenePipeline.load(world), example(world)
    made = edit(pipeline, shown.picture, shown.region, shown.request)
    for method in ("plain", "slow"):
        theirs, ours = (np.asarray(e.images[method], float) for e in (shown.edited, made))
        assert np.abs(theirs - ours).mean() < 0.5, method
        assert made.verdicts[method].items == shown.edited.verdicts[method].items
    np.testing.assert_array_equal(made.region, shown.region)


@pytest.mark.parametrize("world", WITH_WEIGHTS)
def test_the_example_is_a_picture_of_the_bench_with_the_told_outcome(world):
    shown = example(world)
    spec = importlib.util.spec_from_file_location("choice", ROOT / "tools/edit_example.py")
    choice = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(choice)
    right = tuple(shown.edited.verdicts[m].right for m in ("plain", "slow"))
    assert choice.OUTCOMES[right] in shown.story
    first = bench.SETS[choice.SET][1]
    of_world, count = SimpleNamespace(world=world), shown.request.seed - first + 1
    jobs = bench.sample_jobs(of_world, choice.SET, count, Request(""))
    assert shown.request.seed - first < choice.COUNT
    np.testing.assert_array_equal(np.asarray(shown.picture), jobs[-1].picture)
    np.testing.assert_array_equal(shown.region, jobs[-1].region)
    assert shown.request.prompt == jobs[-1].wish.prompt()
    assert bench.ARMS[choice.SLOW].curvature == CURVATURE


def test_what_is_drawn_is_chosen_by_a_generator_among_the_most_frequent():
    spec = importlib.util.spec_from_file_location("choice", ROOT / "tools/edit_example.py")
    choice = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(choice)
    outcomes = ["both right"] * 3 + ["neither right"] * 5 + ["both right"] * 4
    most, number = choice.choose(outcomes)
    assert most == "both right" and outcomes[number] == most
    assert choice.choose(outcomes) == (most, number)


def test_only_the_region_changes_and_k_0_is_plain(pipeline, shown):
    request = replace(shown.request, steps=4)
    made = edit(pipeline, shown.picture, shown.region, request, 0)
    np.testing.assert_array_equal(*(np.asarray(made.images[m]) for m in ("plain", "slow")))
    made = edit(pipeline, shown.picture, shown.region, request, 0.9)
    far = ~shown.region.repeat(4, 0).repeat(4, 1)
    before, slow = (np.asarray(each, float) for each in (shown.picture, made.images["slow"]))
    assert np.abs(before - slow)[far].mean() < 3 < np.abs(before - slow)[~far].mean()
    assert np.asarray(made.images["plain"]).tobytes() != slow.astype(np.uint8).tobytes()


def test_any_square_picture_and_mask_will_do(pipeline, shown):
    large = shown.picture.resize((200, 200)).convert("RGBA")
    told = []
    mask = np.zeros((90, 90), bool)
    mask[40:80, 10:50] = True
    request = replace(shown.request, steps=2)
    made = edit(pipeline, large, mask, request, progress=lambda *said: told.append(said))
    assert made.region.sum() == 49 and {*made.images} == {"plain", "slow"}
    assert told[0][0] > 0 and told[-1] == (1.0, "slow, step 2 of 2")


@pytest.mark.parametrize(
    ("change", "error", "line"),
    [
        ({"picture": None}, SettingsError, "picture: there is none yet; press Generate"),
        ({"picture": Image.new("RGB", (64, 40))}, SettingsError, "picture: it is 64x40 pixels"),
        ({"painted": None}, SettingsError, "region: nothing is painted; paint over"),
        ({"painted": np.zeros((64, 64))}, SettingsError, "region: nothing is painted"),
        ({"painted": np.ones((64, 40))}, SettingsError, "painted mask: it is 40x64"),
        ({"prompt": ""}, PromptError, "prompt: it is empty"),
        ({"prompt": "a red dragon"}, PromptError, "prompt: "),
        ({"curvature": 1.5}, SettingsError, "curvature: 1.5 is out of range"),
        ({"curvature": None}, SettingsError, "curvature: "),
    ],
)
def test_bad_input_is_one_line(pipeline, shown, change, error, line):
    given = {"picture": shown.picture, "painted": shown.region, "curvature": 0.5, **change}
    request = replace(shown.request, steps=1, prompt=given.pop("prompt", shown.request.prompt))
    with pytest.raises(error, match=f"^{line}") as caught:
        edit(pipeline, given["picture"], given["painted"], request, given["curvature"])
    assert "\n" not in str(caught.value)
