"""The alignment bench: statistics against closed forms, resumption, shards, the page."""

import argparse
import json
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch

from asyndm.bench import report, scenes
from asyndm.bench.paired import compare, dose_response, mean_over_prompts
from asyndm.core.settings import SettingsError
from asyndm.scenes.model import weights_file
from asyndm.scenes.pipeline import Request, ScenePipeline


def test_the_exact_test_is_mcnemars():
    one = np.array([[1.0]] * 8 + [[0.0]] * 12)
    two = np.array([[0.0]] * 8 + [[1.0]] + [[0.0]] * 11)
    difference = compare(one, two)
    assert (difference.better, difference.worse) == (8, 1)
    assert difference.p_value == pytest.approx(2 * (1 + 9) / 2**9)  # 9 discordant pairs
    assert difference.estimate.value == pytest.approx(7 / 20)
    assert difference.estimate.low < 7 / 20 < difference.estimate.high


def test_intervals_cover_at_about_their_level():
    rng = np.random.default_rng(0)
    covered = 0
    for _ in range(150):
        estimate = mean_over_prompts((rng.random((60, 1)) < 0.3).astype(float))
        covered += estimate.low <= 0.3 <= estimate.high
    assert 0.88 <= covered / 150 <= 0.99


def test_seeds_of_a_prompt_are_no_independent_evidence():
    """The same value at every seed must not narrow the interval."""
    by_prompt = (np.random.default_rng(1).random((80, 1)) < 0.5).astype(float)
    narrow = mean_over_prompts(by_prompt)
    repeated = mean_over_prompts(np.repeat(by_prompt, 8, axis=1))
    assert repeated == narrow


def test_missing_backgrounds_are_left_out():
    assert mean_over_prompts(np.array([[np.nan], [2.0], [2.0]])).value == 2
    with pytest.raises(ValueError, match="no value"):
        mean_over_prompts(np.array([[np.nan]]))


def test_the_dose_response_is_the_least_squares_slope():
    rng = np.random.default_rng(2)
    differences = {dose: rng.normal(0.1 * dose, 1, (50, 2)) for dose in (0.0, 0.5, 1.0)}
    expected = np.polyfit([0, 0.5, 1], [d.mean() for d in differences.values()], 1)[0]
    assert dose_response(differences).value == pytest.approx(expected)
    assert dose_response({1.0: differences[1.0]}) is None


def test_splits_share_no_prompt_and_grow_without_changing():
    few, many = (scenes.bench_prompts("test", n) for n in (20, 120))
    assert many[:20] == few and len(set(many)) == 120
    assert not set(many) & set(scenes.bench_prompts("development", 120))


def test_prompts_of_earlier_runs_are_left_out(tmp_path, untrained):
    assert scenes.bench_prompts("test", 7, skip=5) == scenes.bench_prompts("test", 12)[5:]
    for prompts, skip in ((2000, 1), (1, 2000), (1, -1)):
        with pytest.raises(SettingsError):
            scenes.bench_prompts("test", prompts, skip)
    scenes.main(arguments(tmp_path))
    with pytest.raises(SettingsError, match="another skip"):
        scenes.main(arguments(tmp_path, "--skip", "3"))


def test_arms_are_methods_with_settings():
    arm = scenes.Arm.parse("asyndm:mask_source=fixed,curvature=0.7,soft=true")
    assert arm.method == "asyndm"
    assert arm.settings.changed() == {"mask_source": "fixed", "curvature": 0.7, "soft": True}
    for text in (
        "magic",
        "asyndm:curvature",
        "asyndm:curvature=2",
        "asyndm:colour=red",
        "drawn:soft=true",
    ):
        with pytest.raises(SettingsError):
            scenes.Arm.parse(text)


def arguments(folder, *more):
    parser = argparse.ArgumentParser()
    scenes.add_arguments(parser)
    return parser.parse_args(
        ["--folder", str(folder), "--prompts", "6", "--seeds", "1", "--steps", "2", *more]
    )


@pytest.fixture
def untrained(monkeypatch):
    pipeline = ScenePipeline.random()
    monkeypatch.setattr(ScenePipeline, "load", classmethod(lambda cls, path=None: pipeline))
    return pipeline


def test_shards_make_up_the_whole_and_nothing_is_drawn_twice(tmp_path, untrained, monkeypatch):
    monkeypatch.setattr(scenes, "_BATCH", 2)
    assert scenes.main(arguments(tmp_path / "whole")) == 0
    whole = scenes.read_results(tmp_path / "whole")
    for shard in ("1/2", "2/2"):
        scenes.main(arguments(tmp_path / "parts", "--shard", shard))
    parts = scenes.read_results(tmp_path / "parts")
    assert sorted(map(json.dumps, parts)) == sorted(map(json.dumps, whole))
    assert len(whole) == 6 * 3
    monkeypatch.setattr(untrained, "sample", lambda *a, **k: pytest.fail("drawn again"))
    scenes.main(arguments(tmp_path / "whole"))


def test_drawn_scenes_tell_what_the_judge_lets_be_right(tmp_path, monkeypatch):
    """Without the network, and the same at each call; what is lost is the decoder's and judge's."""
    pipeline = ScenePipeline.load(weights_file("shadows"))
    monkeypatch.setattr(pipeline, "sample", lambda *a, **k: pytest.fail("the network ran"))
    arm, prompts = scenes.Arm.parse("drawn"), scenes.bench_prompts("development", 40)
    for folder in (tmp_path / "one", tmp_path / "two"):
        scenes.run(pipeline, [arm], [1.0], prompts, 1, Request(""), folder)
    one, two = (scenes.read_results(folder) for folder in (tmp_path / "one", tmp_path / "two"))
    assert one == two and len(one) == 40
    assert np.mean([line["right"] for line in one]) >= 0.9


def test_shards_may_start_at_the_same_moment(tmp_path):
    """None reads what another has written half."""
    setup = {"split": "test", "steps": 25, "weights": "auroras" * 200}

    def start(number: int) -> None:
        for folder in range(300):
            scenes._keep_setup(tmp_path / str(folder), {**setup, "prompts": number})

    with ThreadPoolExecutor(4) as many:
        list(many.map(start, range(4)))
    with pytest.raises(SettingsError, match="another steps"):
        scenes._keep_setup(tmp_path / "0", {**setup, "steps": 3})


@pytest.mark.slow
def test_the_network_runs_in_the_precision_asked_for(tmp_path, untrained):
    seen = set()
    untrained.model.unet.conv_in.register_forward_hook(lambda m, a, out: seen.add(out.dtype))
    scenes.main(arguments(tmp_path / "wide"))
    assert seen == {torch.float32}
    scenes.main(arguments(tmp_path / "narrow", "--precision", "bfloat16"))
    assert seen == {torch.float32, torch.bfloat16}
    with pytest.raises(SettingsError, match="another precision"):
        scenes.main(arguments(tmp_path / "wide", "--precision", "bfloat16"))


def test_a_run_cut_off_in_a_line_is_resumed(tmp_path, untrained):
    scenes.main(arguments(tmp_path))
    path = next(tmp_path.glob("results_*.jsonl"))
    complete = scenes.read_results(tmp_path)
    text = path.read_text()
    path.write_text(text[: text.rindex("{") + 20])
    scenes.main(arguments(tmp_path))
    again = scenes.read_results(tmp_path)

    def key(line):
        return line["arm"], line["prompt"]

    assert sorted(again, key=key) == sorted(complete, key=key)


def test_the_report_says_what_the_lines_say(tmp_path, untrained):
    arms = ["synchronous", "asyndm:curvature=0.8", "oracle"]
    couplings = ["--couplings", "0", "1"]
    scenes.main(arguments(tmp_path, "--methods", *arms, *couplings))
    report = json.loads((tmp_path / "report.json").read_text())
    assert report["images_an_arm"] == 6 and report["arms"] == arms
    lines = scenes.read_results(tmp_path)
    for row in report["rows"]:
        mine = [x for x in lines if x["arm"] == row["arm"] and x["coupling"] == row["coupling"]]
        assert row["objects"]["value"] == pytest.approx(np.mean([x["objects"] for x in mine]))
    page = (tmp_path / "report.html").read_text()
    assert page.count("data:image/png;base64,") == 2 and "asyndm:curvature=0.8" in page
    assert set(report["dose_response"]) == set(arms[1:])


def test_held_out_prompts_are_compared_among_themselves():
    """Four prompts, two of them held out; the method mends one picture of each kind."""
    right = {
        "synchronous": [[0, 1], [0, 0], [1, 1], [0, 1]],
        "asyndm": [[1, 1], [1, 0], [1, 1], [0, 1]],
    }
    held = [False, True, False, True]
    lines = [
        {
            "arm": arm, "coupling": 1.0, "prompt": prompt, "seed": seed, "held_out": held[prompt],
            "right": bool(value), "objects": 1.0, "noise": 0.1, "sharpness": 1.0,
        }
        for arm, table in right.items()
        for prompt, values in enumerate(table)
        for seed, value in enumerate(values)
    ]  # fmt: skip
    setup = {"prompts": 4, "seeds": 2}
    plain, mine = report.summarise(lines, list(right), [1.0], setup)["rows"]
    assert plain["right_held_out"] == 0.25 and mine["right_held_out"] == 0.5
    assert plain["right_held_out_difference"] is None
    difference = mine["right_held_out_difference"]
    assert difference["value"] == 0.25 and (difference["better"], difference["worse"]) == (1, 0)
    seen = [line for line in lines if not line["held_out"]]
    for line in seen:
        line["prompt"] //= 2
    rows = report.summarise(seen, list(right), [1.0], setup | {"prompts": 2})["rows"]
    assert rows[1]["right_held_out_difference"] is None


def test_another_setup_does_not_mix_in(tmp_path, untrained):
    scenes.main(arguments(tmp_path))
    with pytest.raises(SettingsError, match="another cfg"):
        scenes.main(arguments(tmp_path, "--cfg", "7"))


@pytest.mark.parametrize(
    "more", [["--shard", "3/2"], ["--couplings", "0.3"], ["--methods", "x"], ["--prompts", "0"]]
)
def test_bad_values_are_one_line(tmp_path, untrained, more):
    with pytest.raises(SettingsError) as caught:
        scenes.main(arguments(tmp_path, *more))
    assert "\n" not in str(caught.value)


def test_weights_that_are_none_are_one_line(tmp_path):
    torn = tmp_path / "torn.safetensors"
    torn.write_bytes(b"no weights")
    for where in ("sunsets", str(torn)):
        with pytest.raises(SettingsError, match=f"weights: .*{where.split('/')[-1]}.*") as caught:
            scenes.main(arguments(tmp_path / f"of {len(where)}", "--weights", where))
        assert "\n" not in str(caught.value)
