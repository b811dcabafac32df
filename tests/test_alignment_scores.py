"""bench alignment: every score on tiny weights equals an independent computation."""

from __future__ import annotations

import json
import sys

import numpy as np
import pytest
import tiny_scores
import torch
from alignment_toys import COLOURS, bench, clip_pixels, two_pictures
from PIL import Image
from tiny_checkpoint import words

from asyndm.bench.alignment.prompt_sets import Prompt
from asyndm.bench.alignment.scores import Absent, Options, open_score
from asyndm.core.settings import SettingsError

PROMPTS = [Prompt("a cat on a red mat", 0), Prompt("a dog", 1)]


@pytest.fixture(scope="module")
def pictures():
    return two_pictures()


def hps_pixels(image, side=32):
    """[3, side, side] as HPSv2 does it: the long side, black around the short one."""
    values = torch.from_numpy(np.asarray(image, np.float32) / 255).permute(2, 0, 1)
    height = round(image.height * side / image.width)  # these are wider than high
    values = torch.nn.functional.interpolate(
        values[None], (height, side), mode="bicubic", antialias=True
    )[0]
    square = torch.zeros(3, side, side)
    top = (side - height) // 2
    square[:, top : top + height] = values
    mean, deviation = (torch.tensor(each)[:, None, None] for each in COLOURS)
    return (square - mean) / deviation


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    words()
    return tiny_scores.clip(tmp_path_factory.mktemp("clip") / "model")


@pytest.mark.parametrize("name", ["clipscore", "hpsv2", "pickscore"])
def test_scores_of_clips_kind(clip, pictures, name):
    from transformers import CLIPModel, CLIPTokenizer

    score = open_score(name, Options({name: clip}))
    model = CLIPModel.from_pretrained(clip).eval()
    tokenizer = CLIPTokenizer.from_pretrained(clip)

    def by_hand(image, prompt):
        with torch.no_grad():
            text = model.text_model(**tokenizer(prompt.text, return_tensors="pt")).pooler_output
            pixels = hps_pixels(image) if name == "hpsv2" else clip_pixels(image)
            seen = model.vision_model(pixels[None]).pooler_output
            one, two = model.text_projection(text)[0], model.visual_projection(seen)[0]
        cosine = float(one @ two / one.norm() / two.norm())
        return cosine * (np.exp(3.0) if name == "pickscore" else 1)

    for prompts in (PROMPTS, PROMPTS[:1] * 2, PROMPTS[1:] * 2):
        expected = [by_hand(image, prompt) for image, prompt in zip(pictures, prompts)]
        got = [value.value for value in score.score(pictures, prompts)]
        assert got == pytest.approx(expected, abs=2e-4)
        assert abs(expected[0] - expected[1]) > 5e-4  # so that the order is no matter of rounding
        assert np.argsort(got).tolist() == np.argsort(expected).tolist()
    assert score.version()["weights"] and score.direction == 1


@pytest.fixture(scope="module")
def hps(tmp_path_factory):
    words()
    return tiny_scores.hps(tmp_path_factory.mktemp("hps") / "hpsv2")


def test_hpsv2_by_its_published_layout(hps, pictures):
    """By the file itself or its folder; open_clip's arithmetic, written out."""
    from transformers import CLIPTokenizer

    file = hps / "HPS_v2.1_compressed.pt"
    state = torch.load(file, weights_only=True)["state_dict"]
    tokenizer = CLIPTokenizer(str(hps / "vocab.json"), str(hps / "merges.txt"))
    expected = [
        tiny_scores.hps_by_hand(state, hps_pixels(image), tokenizer(prompt.text).input_ids)
        for image, prompt in zip(pictures, PROMPTS)
    ]
    for where in (hps, file):
        got = [
            v.value for v in open_score("hpsv2", Options({"hpsv2": where})).score(pictures, PROMPTS)
        ]
        assert got == pytest.approx(expected, abs=1e-5)
        assert np.argsort(got).tolist() == np.argsort(expected).tolist()
    clipscore = open_score("clipscore", Options({"clipscore": hps}))  # LAION's are such files, too
    by_hand = tiny_scores.hps_by_hand(state, clip_pixels(pictures[0]), tokenizer("a dog").input_ids)
    (value,) = clipscore.score(pictures[:1], PROMPTS[1:])
    assert value.value == pytest.approx(by_hand, abs=2e-4)


def test_a_clip_of_another_kind_is_one_line(hps, tmp_path):
    class Evil:
        def __reduce__(self):
            return (open, (str(tmp_path / "run"), "w"))

    state = torch.load(hps / "HPS_v2.1_compressed.pt", weights_only=True)["state_dict"]
    broken = {k: v for k, v in state.items() if "resblocks.1.mlp" not in k}
    for number, (content, says) in enumerate(
        [
            (broken, "does not fit"),
            ({"a": torch.zeros(1)}, "it is no CLIP"),
            ({**state, "extra": torch.zeros(1)}, "extra does not fit"),
            ({"state_dict": Evil()}, "cannot be loaded"),
            (state, "vocab.json of CLIP's vocabulary is not beside it"),
        ]
    ):
        folder = tmp_path / str(number)
        folder.mkdir()
        torch.save(content, folder / "a.pt")
        for name in ("vocab.json", "merges.txt") if content is not state else ():
            (folder / name).write_bytes((hps / name).read_bytes())
        with pytest.raises(Absent, match=says) as caught:
            open_score("hpsv2", Options({"hpsv2": folder}))
        assert "\n" not in str(caught.value)
    assert not (tmp_path / "run").exists()


def test_hpsv2_is_open_clips(hps, pictures):
    """In the environment of requirements/fid.txt."""
    open_clip = pytest.importorskip("open_clip", reason="requirements/fid.txt")
    from torchvision.transforms import functional

    text = {"context_length": 77, "vocab_size": 49408, "width": 64, "heads": 1, "layers": 2}
    vision = {"image_size": 32, "layers": 2, "width": 128, "patch_size": 8, "mlp_ratio": 2.0}
    model = open_clip.CLIP(16, vision, {**text, "mlp_ratio": 2.0}).eval()
    state = torch.load(hps / "HPS_v2.1_compressed.pt", weights_only=True)["state_dict"]
    model.load_state_dict(state)
    tokenizer = open_clip.SimpleTokenizer()
    got = open_score("hpsv2", Options({"hpsv2": hps})).score(pictures, PROMPTS)
    for image, prompt, value in zip(pictures, PROMPTS, got):
        small = functional.resize(
            functional.to_tensor(image), [20, 32], functional.InterpolationMode.BICUBIC
        )
        square = functional.normalize(functional.pad(small, [0, 6, 0, 6]), *COLOURS)
        with torch.no_grad():
            seen, read, _ = model(square[None], tokenizer([prompt.text]))
        assert value.value == pytest.approx(float(seen @ read.T), abs=1e-5)


def test_imagereward_by_its_published_layout(tmp_path, pictures):
    pytest.importorskip("transformers")
    from transformers import BertTokenizer

    folder = tiny_scores.image_reward(tmp_path / "imagereward")
    score = open_score("imagereward", Options({"imagereward": folder}))
    state = torch.load(folder / "ImageReward.pt", weights_only=True)
    tokenizer = BertTokenizer(str(folder / "vocab.txt"))
    expected = []
    for image, prompt in zip(pictures, PROMPTS):
        read = tokenizer(prompt.text, padding="max_length", max_length=35, return_tensors="pt")
        pixels = clip_pixels(image, middle=lambda odd: round(odd / 2))  # torchvision's middle
        with torch.no_grad():
            expected.append(
                tiny_scores.image_reward_by_hand(
                    state, pixels, read.input_ids[0], read.attention_mask[0]
                )
            )
    got = [value.value for value in score.score(pictures, PROMPTS)]
    assert got == pytest.approx(expected, abs=1e-3)
    assert np.argsort(got).tolist() == np.argsort(expected).tolist()
    broken = {k: v for k, v in state.items() if "crossattention" not in k}
    torch.save(broken, folder / "ImageReward.pt")
    with pytest.raises(Absent, match="does not fit"):
        open_score("imagereward", Options({"imagereward": folder}))


def test_noise_is_measured_in_grey_levels(pictures):
    score = open_score("noise", Options())
    flat = np.full((64, 64, 3), 128.0)
    flat += np.random.default_rng(1).normal(0, 5, (64, 64, 1))
    noisy = Image.fromarray(flat.round().astype(np.uint8))
    (value,) = score.score([noisy], PROMPTS[:1])
    assert value.value == pytest.approx(5, rel=0.1)
    first, second = (one.value for one in score.score(pictures, PROMPTS))
    assert first > second and score.direction == -1


def test_saturation_and_contrast_by_hand(pictures):
    for name, by_hand in (
        ("saturation", lambda p: ((p.max(-1) - p.min(-1)) / np.maximum(p.max(-1), 1)).mean()),
        ("contrast", lambda p: (p @ [0.299, 0.587, 0.114]).std() / 255),
    ):
        values = open_score(name, Options()).score(pictures, PROMPTS)
        expected = [by_hand(np.asarray(image, float)) for image in pictures]
        assert [v.value for v in values] == pytest.approx(expected, abs=0.005)


def test_the_checker_judges_its_own_world_alone(pictures):
    from asyndm.scenes.text import parse_prompt
    from asyndm.scenes.world import draw, sample_scene

    rng = np.random.default_rng(0)
    text = "a red circle and a blue square"
    image = Image.fromarray(np.asarray(draw(sample_scene(rng, parse_prompt(text)))))
    right, objects = (open_score(name, Options()) for name in ("right", "objects"))
    assert right.score([image], [Prompt(text, 0)])[0].value == 1
    blank = Image.new("RGB", (64, 64), "grey")
    failed = right.score([blank], [Prompt(text, 0)])[0]
    assert failed.value == 0 and "missing" in failed.reason
    assert objects.score([blank], [Prompt(text, 0)])[0].value == 0
    assert right.score([blank, pictures[0]], [PROMPTS[0], Prompt(text, 0)])[0].value is None
    assert "64x64" in right.score([pictures[0]], [Prompt(text, 0)])[0].reason


# --- the registry ---


def test_a_score_of_ones_own_comes_from_the_command_line(tmp_path, weights, monkeypatch):
    (tmp_path / "mine.py").write_text(
        "class Bright:\n    direction = -1\n    version = '3'\n"
        "    def score(self, images, texts):\n"
        "        return [sum(i.convert('L').histogram()[200:]) + len(t)\n"
        "                for i, t in zip(images, texts)]\n"
        "def wrong(images, texts):\n    return [1]\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    args = ["--backend", f"embedded:{weights}", "--limit", 2, "--steps", 1, "--methods", "sync"]
    assert bench("--folder", tmp_path / "x", *args, "--scores", "mine:Bright", "contrast") == 0
    (score, _) = json.loads((tmp_path / "x" / "report.json").read_text())["scores"]
    assert score["name"] == "mine:Bright" and score["direction"] == -1
    assert score["version"] == {"version": "3"} and score["means"]["sync"]["n"] == 2
    with pytest.raises(SettingsError, match="1 values for 2 pictures"):
        made = open_score("mine:wrong", Options())
        made.score([Image.new("RGB", (8, 8))] * 2, PROMPTS)
    sys.modules.pop("mine")


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("clipscor", "did you mean clipscore"),
        ("nosuch:Thing", "cannot be loaded"),
        ("clipscore", "--weights clipscore=FOLDER"),
        ("geneval", "--weights detector=FOLDER"),
        ("qwenscore", "--judge URL"),
    ],
)
def test_what_cannot_run_is_one_line(name, says):
    with pytest.raises(SettingsError, match=says) as caught:
        open_score(name, Options())
    assert "\n" not in str(caught.value)


def test_weights_of_another_kind_are_one_line(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    for name in ("clipscore", "imagereward"):
        with pytest.raises(Absent, match="cannot be loaded") as caught:
            open_score(name, Options({name: tmp_path}))
        assert "\n" not in str(caught.value)
