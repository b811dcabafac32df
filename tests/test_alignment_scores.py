"""bench alignment: every score on tiny weights equals an independent computation."""

from __future__ import annotations

import json
import sys

import numpy as np
import pytest
import tiny_scores
import torch
from alignment_toys import bench
from PIL import Image
from tiny_checkpoint import words

from asyndm.bench.alignment.prompt_sets import Prompt
from asyndm.bench.alignment.scores import Absent, Options, open_score
from asyndm.bench.alignment.scores.detection import Found, judge, relations
from asyndm.core.settings import SettingsError

PROMPTS = [Prompt("a cat on a red mat", 0), Prompt("a dog", 1)]
COLOURS = ((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711))


@pytest.fixture(scope="module")
def pictures():
    rng = np.random.default_rng(0)
    noise = Image.fromarray(rng.integers(0, 256, (40, 64, 3), dtype=np.uint8))
    ramp = np.linspace(0, 255, 64)[None, :, None] * np.ones((40, 1, 3))
    ramp[..., 2] = 200
    return [noise, Image.fromarray(ramp.astype(np.uint8))]


def clip_pixels(image, side=32, middle=lambda odd: odd // 2):
    """[3, side, side] by hand: the short side, the middle, CLIP's colours."""
    width = round(image.width * side / image.height)
    small = image.resize((width, side), Image.Resampling.BICUBIC)
    left = middle(width - side)
    values = np.asarray(small.crop((left, 0, left + side, side)), np.float32) / 255
    mean, deviation = (torch.tensor(each)[:, None, None] for each in COLOURS)
    return (torch.from_numpy(values).permute(2, 0, 1) - mean) / deviation


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
    expected = []
    with torch.no_grad():
        for image, prompt in zip(pictures, PROMPTS):
            text = model.text_model(**tokenizer(prompt.text, return_tensors="pt")).pooler_output
            pixels = hps_pixels(image) if name == "hpsv2" else clip_pixels(image)
            seen = model.vision_model(pixels[None]).pooler_output
            one, two = model.text_projection(text)[0], model.visual_projection(seen)[0]
            cosine = float(one @ two / one.norm() / two.norm())
            expected.append(cosine * (np.exp(3.0) if name == "pickscore" else 1))
    got = [value.value for value in score.score(pictures, PROMPTS)]
    assert got == pytest.approx(expected, abs=2e-4)
    same = [PROMPTS[0]] * 2
    assert np.argsort([v.value for v in score.score(pictures, same)]).tolist() in ([0, 1], [1, 0])
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


# --- detection ---


def found(*boxes, confidence=0.9):
    mask = np.ones((1, 1), bool)
    return [Found(box, mask, confidence) for box in boxes]


@pytest.mark.parametrize(
    ("one", "two", "expected"),
    [
        ((0, 0, 10, 10), (30, 0, 40, 10), {"left of"}),
        ((30, 0, 40, 10), (0, 0, 10, 10), {"right of"}),
        ((0, 0, 10, 10), (0, 30, 10, 40), {"above"}),
        ((0, 30, 10, 40), (0, 0, 10, 10), {"below"}),
        ((0, 0, 10, 10), (30, 30, 40, 40), {"left of", "above"}),
        ((0, 0, 10, 10), (1, 1, 11, 11), set()),
        ((0, 0, 100, 100), (15, 0, 115, 100), set()),
    ],
)
def test_where_a_box_is_seen_from_another(one, two, expected):
    assert relations(one, two) == expected


@pytest.mark.parametrize(
    ("asks", "there", "reason"),
    [
        ({"include": [{"class": "cat", "count": 1}]}, {"cat": 1}, ""),
        ({"include": [{"class": "cat", "count": 2}]}, {"cat": 1}, "expected 2 cat, found 1"),
        (
            {"include": [{"class": "cat", "count": 2}], "exclude": [{"class": "cat", "count": 3}]},
            {"cat": 3},
            "expected fewer than 3 cat, found 3",
        ),
        ({"include": [{"class": "dog", "count": 1, "color": "red"}]}, {"dog": 1}, ""),
        (
            {"include": [{"class": "dog", "count": 1, "color": "blue"}]},
            {"dog": 1},
            "expected blue dog, found red",
        ),
        ({"include": [{"class": "computer mouse", "count": 1}]}, {"mouse": 1}, ""),
        (
            {
                "include": [
                    {"class": "dog", "count": 1},
                    {"class": "cat", "count": 1, "position": ["left of", 0]},
                ]
            },
            {"cat": 1},
            "expected 1 dog, found 0; nothing for cat to be left of",
        ),
    ],
)
def test_genevals_rules_say_why(asks, there, reason):
    objects = {
        name: found(*[(20 * i, 0, 20 * i + 10, 10) for i in range(n)]) for name, n in there.items()
    }
    reasons = judge(asks, objects, lambda name, of: ["red"] * len(of))
    assert "; ".join(reasons) == reason


def test_positions_are_judged(clip):
    asks = {
        "include": [
            {"class": "dog", "count": 1},
            {"class": "cat", "count": 1, "position": ["left of", 0]},
        ]
    }
    left, right = found((0, 0, 10, 10)), found((50, 0, 60, 10))
    assert not judge(asks, {"cat": left, "dog": right}, None)
    (reason,) = judge(asks, {"cat": right, "dog": left}, None)
    assert reason == "expected cat left of it, found right of"


def test_a_detector_finds_what_its_masks_say(clip, tmp_path, pictures):
    from transformers import Mask2FormerForUniversalSegmentation, Mask2FormerImageProcessor

    folder = tiny_scores.mask2former(tmp_path / "detector")
    score = open_score("geneval", Options({"detector": folder, "colours": clip}))
    image = pictures[1]
    got = score.detect(image, 0.05)
    model = Mask2FormerForUniversalSegmentation.from_pretrained(folder).eval()
    inputs = Mask2FormerImageProcessor.from_pretrained(folder)(image, return_tensors="pt")
    with torch.no_grad():
        out = model(**inputs)
    chances = out.class_queries_logits[0].softmax(-1)[:, :-1]
    logits = torch.nn.functional.interpolate(
        out.masks_queries_logits, size=(384, 384), mode="bilinear", align_corners=False
    )[0]
    expected = {}
    best = chances.flatten().topk(6, sorted=False)
    for value, index in zip(*best):
        query, label = int(index) // 3, int(index) % 3
        mask = logits[query] > 0
        sure = float(value * (logits[query].sigmoid() * mask).sum() / (mask.sum() + 1e-6))
        if mask.any() and sure > 0.05:
            expected.setdefault(model.config.id2label[label], []).append(sure)
    assert got and set(got) <= set(expected)
    for name, objects in got.items():
        assert [o.confidence for o in objects] == pytest.approx(
            sorted(expected[name], reverse=True)[: len(objects)], abs=1e-4
        )
        for one in objects:
            rows, columns = np.nonzero(one.mask)
            assert one.box == (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1)
    colours = score.colours(image, "cat", next(iter(got.values())))
    assert set(colours) <= set(__import__("asyndm").bench.alignment.geneval.COLOURS)
    asked = Prompt("a photo of two zebras", 0, "counting",
                   {"tag": "counting", "include": [{"class": "zebra", "count": 2}]})  # fmt: skip
    value = score.score([image], [asked])[0]
    assert value.value == 0 and value.reason == "expected 2 zebra, found 0"
    assert score.score([image], PROMPTS[:1])[0].value is None


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
