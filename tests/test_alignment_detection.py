"""bench alignment: GenEval's rules, and a detector, equal what is computed otherwise."""

from __future__ import annotations

import numpy as np
import pytest
import tiny_scores
import torch
from alignment_toys import clip_pixels, two_pictures
from PIL import Image
from tiny_checkpoint import words

from asyndm.bench.alignment.geneval import COLOURS
from asyndm.bench.alignment.prompt_sets import Prompt
from asyndm.bench.alignment.scores import Options, open_score
from asyndm.bench.alignment.scores.detection import Found, judge, relations


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    words()
    folder = tmp_path_factory.mktemp("detection")
    return tiny_scores.mask2former(folder / "detector"), tiny_scores.clip(folder / "clip")


@pytest.fixture(scope="module")
def score(folders):
    detector, clip = folders
    return open_score("geneval", Options({"detector": detector, "colours": clip}))


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


def test_positions_are_judged():
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


def detected_by_hand(folder, image, threshold):
    """Class -> (how sure, box, mask), the surest first: as Mask2Former's authors post-process."""
    from transformers import Mask2FormerForUniversalSegmentation, Mask2FormerImageProcessor

    model = Mask2FormerForUniversalSegmentation.from_pretrained(folder).eval()
    inputs = Mask2FormerImageProcessor.from_pretrained(folder)(image, return_tensors="pt")
    with torch.no_grad():
        out = model(**inputs)
    chances = out.class_queries_logits[0].softmax(-1)[:, :-1]
    logits = torch.nn.functional.interpolate(
        out.masks_queries_logits, size=(384, 384), mode="bilinear", align_corners=False
    )[0]
    expected = {}
    for value, index in zip(*chances.flatten().topk(6)):
        query, label = int(index) // 3, int(index) % 3
        whole = logits[query] > 0
        sure = float(value * (logits[query].sigmoid() * whole).sum() / (whole.sum() + 1e-6))
        down, across = (
            torch.div(torch.arange(side) * 384, side, rounding_mode="floor")
            for side in image.size[::-1]
        )
        mask = whole[down][:, across].numpy()
        if mask.any() and sure > threshold:
            rows, columns = np.nonzero(mask)
            box = (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1)
            found = expected.setdefault(model.config.id2label[label], [])
            found.append((sure, box, mask))
    return {name: sorted(each, key=lambda one: -one[0]) for name, each in expected.items()}


def colours_by_hand(model, tokenizer, image, name, objects):
    """The nearest of ten colours to each (how sure, box, mask), cut out over grey."""
    means = []
    with torch.no_grad():
        for colour in COLOURS:
            texts = (f"a photo of a {colour} {name}", f"a photo of a {colour}-colored {name}",
                     f"a photo of a {colour} object")  # fmt: skip
            read = [
                model.text_projection(
                    model.text_model(**tokenizer(text, return_tensors="pt")).pooler_output
                )[0]
                for text in texts
            ]
            mean = torch.stack([each / each.norm() for each in read]).mean(0)
            means.append(mean / mean.norm())
        found = []
        for _, box, mask in objects:
            pixels = np.where(mask[..., None], np.asarray(image), 0x99).astype(np.uint8)
            left, top, right, bottom = (int(each) for each in box)
            crop = clip_pixels(Image.fromarray(pixels[top:bottom, left:right]))[None]
            seen = model.visual_projection(model.vision_model(crop).pooler_output)[0]
            found.append(COLOURS[int(np.argmax([float(seen @ mean) for mean in means]))])
    return found


def test_a_detector_finds_what_its_masks_say(folders, score):
    from transformers import CLIPModel, CLIPTokenizer

    folder, clip = folders
    by = CLIPModel.from_pretrained(clip).eval(), CLIPTokenizer.from_pretrained(clip)
    colours = set()
    for image in (*two_pictures(), Image.new("RGB", (64, 40), "red")):
        got, expected = score.detect(image, 0.05), detected_by_hand(folder, image, 0.05)
        assert got.keys() == expected.keys() and got
        for name, objects in got.items():
            assert [o.confidence for o in objects] == pytest.approx(
                [sure for sure, *_ in expected[name]], abs=1e-4
            )
            for one, (_, box, mask) in zip(objects, expected[name]):
                assert one.box == box and (one.mask == mask).all()
            named = score.colours(image, name, objects)
            assert named == colours_by_hand(*by, image, name, expected[name])
            colours |= {*named}
    assert len(colours) > 1


def test_a_detectors_judgement_is_what_it_found(folders, score):
    """Two pictures, each with what the other lacks."""
    folder, pictures = folders[0], two_pictures()
    there = [{n: len(each) for n, each in detected_by_hand(folder, image, 0.3).items()}
             for image in pictures]  # fmt: skip
    assert there[0].keys() != there[1].keys()
    for name in {**there[0], **there[1]}:
        asks = {"tag": "single_object", "include": [{"class": name, "count": 1}]}
        asked = Prompt(f"a photo of a {name}", 0, "single_object", asks)
        values = score.score(pictures, [asked] * 2)
        assert [value.value for value in values] == [float(name in each) for each in there]
        reasons = ["" if name in each else f"expected 1 {name}, found 0" for each in there]
        assert [value.reason for value in values] == reasons
    sure = [len(detected_by_hand(folder, pictures[0], 0.9).get("mouse", ())), there[0]["mouse"]]
    assert sure == [0, 2]  # what is counted has to be surer
    for tag, reason in (("counting", "expected 2 mouse, found 0"), ("two_object", "")):
        asked = Prompt("a photo of two mice", 0, tag,
                       {"tag": tag, "include": [{"class": "mouse", "count": 2}]})  # fmt: skip
        assert score.score(pictures[:1], [asked])[0].reason == reason
    assert score.score(pictures[:1], [Prompt("a dog", 1)])[0].value is None
