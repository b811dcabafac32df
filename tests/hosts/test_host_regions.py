"""Regions of Regional Prompter and Forge Couple are ready masks, where they can be read.

Look-alikes: see prompters.py; Forge Couple's patches are those of the attention coupling it is
built on.
"""

from __future__ import annotations

import types

import numpy as np
import pytest
import torch
from jobs import apart, make, note, painted, ticked
from PIL import Image
from prompters import Cell, Row, columns, divided, extension, prompter

PROMPT = "a cat on grass BREAK a dog on sand"


@pytest.fixture(autouse=True)
def one_of_a_family(host):
    if host.name == "reForge" and not hasattr(host, "folder"):
        pytest.skip("nothing here differs from the stand-in for Forge")


def sent(mask: np.ndarray) -> str:
    from driver import _encoded

    return _encoded(Image.fromarray(mask.astype(np.uint8) * 255))


def part(top: int, bottom: int, left: int, right: int) -> np.ndarray:
    mask = np.zeros((128, 128), bool)
    mask[top:bottom, left:right] = True
    return mask


def comments(made) -> str:
    return str(made.info.get("comments") or "")


GRID = [Row(0.0, 0.5, [Cell(0, 1)]), Row(0.5, 1.0, [Cell(0, 0.25), Cell(0.25, 1)])]
CASES = {
    "columns": (
        {"mode": "Horizontal", "aratios": columns(0, 0.5, 1)},
        PROMPT,
        (part(0, 128, 0, 64), part(0, 128, 64, 128)),
    ),
    "columns of 1 and 3": (
        {"mode": "Columns", "aratios": columns(0, 0.25, 1)},
        PROMPT,
        (part(0, 128, 0, 32), part(0, 128, 32, 128)),
    ),
    "rows": (
        {"mode": "Vertical", "aratios": columns(0, 0.5, 1)},
        PROMPT,
        (part(0, 64, 0, 128), part(64, 128, 0, 128)),
    ),
    "a row above two cells": (
        {"mode": "Matrix-Horizontal", "aratios": GRID},
        "sky BREAK a cat BREAK a dog",
        (part(64, 128, 0, 32), part(64, 128, 32, 128)),
    ),
    "with a base prompt": (
        {"mode": "Horizontal", "aratios": columns(0, 0.5, 1), "usebase": True},
        f"photo of animals BREAK {PROMPT}",
        (part(0, 128, 0, 64), part(0, 128, 64, 128)),
    ),
    "a region of two chunks": (
        {"mode": "Horizontal", "aratios": columns(0, 0.5, 1, breaks=(1, 0))},
        "grass BREAK a cat BREAK a dog",
        (part(0, 128, 0, 64), part(0, 128, 64, 128)),
    ),
    "painted masks": (
        {
            "mode": "Mask",
            "aratios": [],
            "regmasks": [
                torch.tensor(part(0, 40, 0, 128))[None, None].float(),
                torch.tensor(part(64, 128, 24, 96))[None].float(),
            ],
        },
        PROMPT,
        (part(0, 40, 0, 128), part(64, 128, 24, 96)),
    ),
    "latent": (
        {"mode": "Horizontal", "calc": "Latent", "aratios": columns(0, 0.5, 1)},
        "a cat on grass AND a dog on sand",
        (part(0, 128, 0, 64), part(0, 128, 64, 128)),
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_regions_are_the_masks_of_the_words_in_their_prompts(host, traces, case):
    state, prompt, (cat, dog) = CASES[case]
    masks = [{"mask": sent(cat), "k": 0.9}, {"mask": sent(dog), "k": 0.4}]
    given = make(host, "txt2img", prompt=prompt, **ticked(masks=masks))
    with prompter(**state):
        made = make(host, "txt2img", prompt=prompt, **ticked(objects="cat:0.9, dog:0.4"))
    assert np.array_equal(made.images[0], given.images[0]) and not note(made)
    numbers = {"a row above two cells": (2, 3)}.get(case, (1, 2))
    said = "cat (region {}), dog (region {}) of Regional Prompter".format(*numbers)
    assert said in comments(made)


def test_a_region_without_an_object_is_background(host, traces):
    state = {"mode": "Horizontal", "aratios": columns(0, 0.5, 1)}
    left = make(
        host, "txt2img", prompt=PROMPT, **ticked(curvature=0.8, mask=sent(part(0, 128, 0, 64)))
    )
    with prompter(**state):
        made = make(host, "txt2img", prompt=PROMPT, **ticked(curvature=0.8, objects="cat"))
        none = make(host, "txt2img", prompt=PROMPT, **ticked(curvature=0.8, objects="unicorn"))
    assert np.array_equal(made.images[0], left.images[0])
    assert np.array_equal(none.images[0], make(host, "txt2img", prompt=PROMPT).images[0])
    assert "unicorn" in note(none) and "synchronous" in note(none)


def test_a_word_that_stands_in_no_region_is_said(host, traces):
    state = {"mode": "Horizontal", "aratios": columns(0, 0.5, 1), "usebase": True}
    prompt = "a bird BREAK a cat BREAK a sofa"
    with prompter(**state):
        made = make(host, "txt2img", prompt=prompt, **ticked(curvature=0.8, objects="cat, bird"))
        only = make(host, "txt2img", prompt=prompt, **ticked(curvature=0.8, objects="bird"))
    assert "'bird' is in no region" in note(made)
    assert "no region has an object word (bird)" in note(only) and "synchronous" in note(only)


def test_each_image_of_a_batch_has_its_own_words(host, traces):
    from test_host_given import prompts

    texts = ["a cat BREAK a sofa", "a sofa BREAK a cat"]
    left, right = part(0, 128, 0, 64), part(0, 128, 64, 128)
    state = {"mode": "Horizontal", "aratios": columns(0, 0.5, 1)}
    with prompter(**state):
        with prompts(*texts):
            made = make(host, "txt2img", batch_size=2, **ticked(curvature=0.8, objects="cat"))
        alone = [
            make(host, "txt2img", prompt=text, seed=1 + j, **ticked(curvature=0.8, objects="cat"))
            for j, text in enumerate(texts)
        ]
    singles = [image.images[0] for image in alone]
    for image, single in zip(made.images[-2:], singles):
        assert apart(image, single) <= 1
    for j, mask in enumerate((left, right)):
        same = make(
            host, "txt2img", prompt=texts[j], seed=1 + j, **ticked(curvature=0.8, mask=sent(mask))
        )
        assert np.array_equal(same.images[0], singles[j])


def test_settings_that_regions_leave_unused_are_said(host, traces):
    state = {"mode": "Horizontal", "aratios": columns(0, 0.5, 1)}
    asked = ticked(curvature=0.8, threshold=1.3, smoothing=0.4, mask_source="fixed", soft=True)
    with prompter(**state):
        made = make(host, "txt2img", prompt=PROMPT, **asked)
        plain = make(host, "txt2img", prompt=PROMPT, **ticked(curvature=0.8))
    assert np.array_equal(made.images[0], plain.images[0])
    assert "mask_source, threshold, smoothing, soft: the regions of Regional Prompter" in note(made)


@pytest.mark.parametrize(
    "state",
    [
        {"mode": "Prompt", "aratios": []},
        {"mode": "Random", "aratios": []},
        {"mode": "Mask", "regmasks": []},
        {"mode": "Mask", "regmasks": ["x"]},
        {"mode": "Horizontal", "aratios": [object()]},
        {},
    ],
)
def test_regions_that_cannot_be_read_are_one_line(host, traces, state):
    plain = make(host, "txt2img", prompt=PROMPT)
    with prompter(**state):
        made = make(host, "txt2img", prompt=PROMPT, **ticked(curvature=0.8))
        mask = ticked(curvature=0.8, mask=sent(np.asarray(painted()) > 0))
        given = make(host, "txt2img", prompt=PROMPT, **mask)
    assert np.array_equal(plain.images[0], made.images[0])
    assert "its regions are not known before the image" in note(made)
    assert "paint the mask" in note(made) and note(made).endswith("synchronous.")
    assert not note(given) and apart(plain.images[0], given.images[0]) > 3  # a mask needs none


def test_a_prompter_that_is_off_changes_nothing(host, traces):
    plain = make(host, "txt2img", prompt=PROMPT, **ticked(curvature=0.8))
    with prompter(active=False, mode="Horizontal", aratios=columns(0, 0.5, 1)):
        made = make(host, "txt2img", prompt=PROMPT, **ticked(curvature=0.8))
    assert np.array_equal(plain.images[0], made.images[0])


def test_regions_beside_the_divided_attention_itself(host, traces):
    masks = [{"mask": sent(part(0, 128, 0, 64)), "k": 0.9}]
    state = {"mode": "Horizontal", "aratios": columns(0, 0.5, 1)}
    with divided(host.network()):
        plain = make(host, "txt2img", prompt=PROMPT)
        given = make(host, "txt2img", prompt=PROMPT, **ticked(masks=masks))
        with prompter(**state):
            made = make(host, "txt2img", prompt=PROMPT, **ticked(objects="cat:0.9"))
    assert np.array_equal(made.images[0], given.images[0]) and not note(made)
    assert apart(plain.images[0], made.images[0]) > 3


def test_regions_in_the_hires_pass_and_in_inpainting(host, traces):
    state = {"mode": "Vertical", "aratios": columns(0, 0.5, 1)}
    for kind in ("hires", "inpaint"):
        mask = ticked(curvature=0.9, mask=sent(part(0, 64, 0, 128)))
        given = make(host, kind, prompt=PROMPT, **mask)
        with prompter(**state):
            made = make(host, kind, prompt=PROMPT, **ticked(curvature=0.9, objects="cat"))
        assert np.array_equal(made.images[0], given.images[0]) and not note(made)


# --- Forge Couple ---


def couple(masks: torch.Tensor):
    """The patches of an attention coupling: closures over the masks, in a module of its name."""
    scope = {"__name__": "lib_couple.attention_couple"}
    code = """
def patches(mask):
    def attn2_patch(q, k, v, extra_options=None):
        return q, k, v
    def attn2_output_patch(out, extra_options=None):
        return out if mask is not None else None
    return attn2_patch, attn2_output_patch
"""
    exec(code, scope)
    return scope["patches"](masks)


def patching(masks):
    def change(p):
        unet = p.sd_model.forge_objects.unet.clone()
        options = dict(unet.model_options.get("transformer_options", {}))
        first, last = couple(masks)
        options["patches"] = {"attn2_patch": [first], "attn2_output_patch": [last]}
        unet.model_options["transformer_options"] = options
        p.sd_model.forge_objects.unet = unet

    return change


def shares(*parts: np.ndarray) -> torch.Tensor:
    """[N, 1, H, W] as its ``patch_unet`` makes them: an empty one first, normalised."""
    masks = np.stack([np.zeros((128, 128)), *parts]).astype(float)[:, None]
    return torch.tensor(masks / masks.sum(0)).float()


TILES = (part(0, 128, 0, 64) * 1.0, part(0, 128, 64, 128) * 1.0)


BACKGROUND = np.full((128, 128), 0.5)
LINES = ["a cat on grass", "a dog on sand"]


@pytest.mark.parametrize(
    "couples, masks",
    [
        (LINES, shares(*TILES)),
        (["photo of animals", *LINES], shares(BACKGROUND, *TILES)),  # "First Line"
        ([*LINES, "photo of animals"], shares(*TILES, BACKGROUND)),  # "Last Line"
        # "Advanced": boxes of different weights, one above the other
        (["a hill", *LINES], shares(0.2 + 0 * BACKGROUND, TILES[0] * 0.7, TILES[1])),
    ],
)
def test_forge_couples_masks_are_ready_masks(host, traces, couples, masks):
    if host.backend == "A1111":
        pytest.skip("AUTOMATIC1111 has no such patches")
    given = [{"mask": sent(TILES[0] > 0), "k": 0.9}, {"mask": sent(TILES[1] > 0), "k": 0.4}]
    prompt = "\n".join(couples)
    with extension("Forge Couple", patching(masks), couples=couples):
        same = make(host, "txt2img", prompt=prompt, **ticked(masks=given))
        made = make(host, "txt2img", prompt=prompt, **ticked(objects="cat:0.9, dog:0.4"))
    assert np.array_equal(made.images[0], same.images[0]) and not note(made)


def test_a_hires_pass_without_forge_couple_is_said(host, traces):
    """Its *Compatibility*, on unless switched off, leaves it out of the hires pass."""
    if host.backend == "A1111":
        pytest.skip("AUTOMATIC1111 has no such patches")
    laid = patching(shares(*TILES))

    def first_pass(p):
        if not getattr(p, "is_hr_pass", False):
            laid(p)
        else:
            options = dict(p.sd_model.forge_objects.unet.model_options)
            options["transformer_options"] = {}
            p.sd_model.forge_objects.unet.model_options = options

    asked = {"prompt": "\n".join(LINES), **ticked(objects="cat:0.9, dog:0.4")}
    with extension("Forge Couple", first_pass, couples=LINES):
        some = make(host, "hires", **asked)
    with extension("Forge Couple", laid, couples=LINES):
        both = make(host, "hires", **asked)
    assert "hires pass: Forge Couple has no regions in this pass" in note(some)
    assert not note(both) and apart(some.images[0], both.images[0]) > 0


def test_an_object_of_forge_couples_background_is_in_no_region(host, traces):
    if host.backend == "A1111":
        pytest.skip("AUTOMATIC1111 has no such patches")
    couples = ["a cat", "grass", "a dog on sand"]
    with extension("Forge Couple", patching(shares(BACKGROUND, *TILES)), couples=couples):
        made = make(host, "txt2img", prompt="\n".join(couples), **ticked(objects="cat, dog"))
        given = ticked(mask=sent(TILES[1] > 0))
        same = make(host, "txt2img", prompt="\n".join(couples), **given)
    assert np.array_equal(made.images[0], same.images[0])
    assert "'cat' is in no region of Forge Couple; it steers nothing." in note(made)


def test_masks_that_fit_no_lines_are_all_objects(host, traces):
    if host.backend == "A1111":
        pytest.skip("AUTOMATIC1111 has no such patches")
    masks = shares(part(0, 128, 0, 64), part(0, 128, 64, 100), part(0, 128, 100, 128))
    with extension("Forge Couple", patching(masks), couples=["a cat", "a dog"]):
        made = make(host, "txt2img", **ticked(curvature=0.8, objects="cat:0.2"))
        whole = sent(np.ones((128, 128), bool))
        same = make(host, "txt2img", **ticked(curvature=0.8, mask=whole))
    assert np.array_equal(made.images[0], same.images[0])


def test_a_coupling_without_readable_masks_is_todays_line(host, traces):
    """Rows of its own in cross-attention, and no masks that can be read."""
    if not hasattr(host, "folder") or host.backend == "A1111":
        pytest.skip("the stand-in runs no such patches")

    def more_rows(q, k, v, options):
        return torch.cat([q, q]), torch.cat([k, k]), torch.cat([v, v])

    more_rows = types.FunctionType(
        more_rows.__code__, {**more_rows.__globals__, "__name__": "lib_couple"}, "attn2_patch"
    )

    def change(p):
        unet = p.sd_model.forge_objects.unet.clone()
        unet.set_model_attn2_patch(more_rows)
        unet.set_model_attn2_output_patch(lambda out, options: 1.1 * out.chunk(2)[0])
        p.sd_model.forge_objects.unet = unet

    with extension("Forge Couple", change):
        plain = make(host, "txt2img")
        made = make(host, "txt2img", **ticked(curvature=0.8))
    assert np.array_equal(plain.images[0], made.images[0]) and "regional" in note(made)
