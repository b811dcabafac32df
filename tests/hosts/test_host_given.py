"""Masks that are sent, and what is decided for an image, a pass or a step."""

from __future__ import annotations

import os
from contextlib import contextmanager

import numpy as np
import pytest
from jobs import apart, make, note, painted, ticked
from PIL import Image


def sent(picture: Image.Image) -> str:
    from driver import _encoded

    return _encoded(picture)


def halves() -> list[Image.Image]:
    found = []
    for left in (0, 64):
        mask = Image.new("L", (128, 128))
        mask.paste(255, (left, 0, left + 64, 128))
        found.append(mask)
    return found


@contextmanager
def prompts(*texts: str):
    """Every image of the batch has a prompt of its own, as a script does it."""
    from modules import scripts

    script = next(s for s in scripts.scripts_txt2img.alwayson_scripts if s.title() == "AsynDM")
    before = type(script).before_process

    def change(self, p, *arguments):
        before(self, p, *arguments)
        p.prompt = list(texts)

    type(script).before_process = change
    try:
        yield
    finally:
        type(script).before_process = before


def test_a_mask_that_is_sent_is_used(host, traces):
    plain = make(host, "txt2img")
    alone = make(host, "txt2img", **ticked(curvature=0.8, mask=sent(painted())))
    named = make(
        host, "txt2img", **ticked(curvature=0.8, mask=sent(painted()), mask_source="painted")
    )
    assert np.array_equal(alone.images[0], named.images[0]) and not note(alone)
    assert apart(plain.images[0], alone.images[0]) > 3
    beside = make(host, "txt2img", **ticked(mask=sent(painted()), mask_source="dynamic"))
    assert "not used" in note(beside)


def test_one_mask_an_object_has_its_own_k(host, traces):
    left, right = map(sent, halves())
    both = [{"mask": left, "k": 0.9, "word": "cat"}, {"mask": right, "k": 0, "word": "dog"}]
    made = make(host, "txt2img", **ticked(masks=both))
    same = make(host, "txt2img", **ticked(mask=left, curvature=0.9))
    assert np.array_equal(made.images[0], same.images[0]) and not note(made)
    other = [{"mask": left, "k": 0.9, "word": "cat"}, {"mask": right, "k": 0.4, "word": "cow"}]
    other = make(host, "txt2img", **ticked(masks=other))
    assert apart(made.images[0], other.images[0]) > 1
    assert "'cow' is not in the prompt" in note(other)


def test_a_sent_mask_beside_the_inpaint_mask(host, traces):
    left = sent(halves()[0])
    whole = make(host, "inpaint", **ticked(mask_source="given", curvature=0.8))
    part = make(host, "inpaint", **ticked(mask=left, curvature=0.8))
    assert apart(whole.images[0], part.images[0]) > 1
    corner = Image.new("L", (128, 128))
    corner.paste(255, (0, 0, 8, 8))
    outside = make(host, "inpaint", **ticked(mask=sent(corner), curvature=0.8))
    assert "outside the inpaint mask" in note(outside)


def test_an_image_without_an_object_is_the_one_made_alone(host, traces):
    with prompts("a shark", "a dog"):
        plain = make(host, "txt2img", batch_size=2)
        made = make(host, "txt2img", batch_size=2, **ticked(objects="shark", curvature=0.9))
    assert apart(plain.images[0], made.images[0]) > 3
    assert apart(plain.images[1], made.images[1]) <= 1
    assert "image 2" in note(made) and "image 1" not in note(made)


EDITED = ("a [cat|dog]", "a [cat:dog:0.5]", "a cat [with a dog:0.3]")


@pytest.mark.parametrize("prompt", EDITED)
@pytest.mark.parametrize("more", [{"mask_source": "fixed"}, {"smoothing": 0.6}])
def test_prompt_editing_steers_with_fixed_and_smoothed_masks(host, traces, prompt, more):
    if host.name == "reForge" and not os.environ.get("ASYNDM_WEBUI_DIR"):
        pytest.skip("its stand-in schedules prompts as Forge's")
    # What is shown in the second half steers late: 8 steps leave 1 of 255, smoothed or not.
    asked = {"prompt": prompt, "steps": 16, "cfg_scale": 8}
    plain = make(host, "txt2img", **asked)
    made = make(host, "txt2img", **asked, **ticked(objects="dog", curvature=0.9, **more))
    background = {"first_step": "background"} if "smoothing" in more else {}
    slow, still = (
        make(host, "txt2img", **asked, **ticked(objects="dog", curvature=k, **more, **background))
        for k in (0.9, 1e-9)
    )
    assert apart(plain.images[0], made.images[0]) > 3
    # Not by the first step alone. The same code with and without a lag: any difference is the
    # mask's, and where it steers late (in Neo) there is no more than one of 255.
    assert apart(still.images[0], slow.images[0]) > 0


def test_a_note_names_its_pass(host, traces):
    made = make(host, "hires", hr_prompt="a tree", **ticked(objects="cat", curvature=0.8))
    assert "hires pass: no object word" in note(made) and "first pass" not in note(made)


def test_only_in_the_hires_pass(host, traces):
    plain = make(host, "hires")
    both = make(host, "hires", **ticked(curvature=0.8))
    only = make(host, "hires", **ticked(curvature=0.8, only_hires=True))
    # Neo enlarges the picture, not the latent: less of the first pass is left.
    assert apart(plain.images[0], only.images[0]) > 3 and apart(both.images[0], only.images[0]) > 2
    without = make(host, "txt2img", **ticked(curvature=0.8, only_hires=True))
    assert np.array_equal(without.images[0], make(host, "txt2img").images[0])
    assert "only_hires" in note(without)


@pytest.mark.parametrize(
    ("asked", "line"),
    [
        ({"lead": 0.5}, "lead: nothing is kept"),
        ({"threshold": 9.9}, "threshold: no pixel reaches"),
        ({"threshold": 0}, "threshold: 0 makes every pixel"),
        ({"first_step": "background", "start": 0.4}, "first_step: masks do not steer yet"),
        ({"curve": "linear"}, "curve: a linear one"),
        ({"mask_grow": 4}, "mask_grow: only a painted mask"),
        ({"mask_source": "given"}, "nothing is painted"),
        ({"mask_source": "fixed", "smoothing": 0.5}, "smoothing: this mask stays"),
        ({"start": 0.99}, "start: of 5 steps none is left"),
        ({"first_step": "background", "end": 0.01}, "first_step, end: of 5 steps none is left"),
        ({"adetailer": True}, "adetailer: no pass of it is in this job; nothing is changed."),
    ],
)
def test_nothing_that_is_set_is_silently_ignored(host, traces, asked, line):
    assert line in note(make(host, "txt2img", **ticked(curvature=0.8, **asked)))


@pytest.mark.parametrize("steps", [1, 2])
def test_one_or_two_steps_cannot_be_asynchronous(host, traces, steps):
    made = make(host, "txt2img", steps=steps, **ticked(curvature=0.8))
    assert np.array_equal(made.images[0], make(host, "txt2img", steps=steps).images[0])
    assert "steps:" in note(made) and "synchronous" in note(made)


def test_noise_levels_that_do_not_fall(host, traces, monkeypatch):
    """Host extensions make such lists."""
    from modules.sd_samplers_kdiffusion import KDiffusionSampler

    before = KDiffusionSampler.get_sigmas

    def rising(self, p, steps):
        sigmas = before(self, p, steps).clone()
        sigmas[2] = sigmas[1] * 1.1
        return sigmas

    monkeypatch.setattr(KDiffusionSampler, "get_sigmas", rising)
    plain = make(host, "txt2img", sampler_name="Euler")
    made = make(host, "txt2img", sampler_name="Euler", **ticked(curvature=0.8))
    assert np.array_equal(plain.images[0], made.images[0])
    assert note(made).count("The image is synchronous.") == 1


def test_an_unknown_part_of_an_infotext_does_not_drop_the_rest(host):
    from asyndm.hosts import infotext

    settings = infotext.pasted({"AsynDM": "curvature=0.7; glow=3; soft=maybe"})
    assert settings.enabled and settings.curvature == 0.7 and not settings.soft
    line = infotext.unread_of(settings)
    assert "glow=3" in line and "soft=maybe" in line
    assert not infotext.unread_of(settings)  # told once


def test_inside_a_script_masks_leave_the_gallery_alone(host, traces, monkeypatch):
    """Prompt matrix, SD upscale and others take every picture for an image of theirs."""
    from asyndm.hosts import shims

    asked = ticked(curvature=0.8, show_masks=True)
    outside = make(host, "txt2img", **asked)
    monkeypatch.setattr(shims, "running_script", lambda p: "Prompt matrix")
    inside = make(host, "txt2img", **asked)
    assert len(inside.images) == len(outside.images) - 2
    assert np.array_equal(inside.images[0], outside.images[0])
    assert "inside the script 'Prompt matrix'" in note(inside) and not note(outside)
