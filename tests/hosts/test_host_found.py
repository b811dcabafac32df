"""What the automatic choice took: in an image's parameters, back from them, for API clients."""

from __future__ import annotations

import os

import numpy as np
import pytest
from jobs import pasted, ticked

from asyndm.core import words

REAL = bool(os.environ.get("ASYNDM_WEBUI_DIR"))
PROMPT = "a shark beside a bike and a teddy bear"


@pytest.fixture
def later(monkeypatch):
    """A later noun list: call it, and the choice takes the bike alone."""

    def change():
        monkeypatch.setattr(words, "auto_objects", lambda *_: ["bike"])

    return change


def make(host, prompt=PROMPT, **request):
    return host.txt2img(prompt=prompt, sampler_name="AsynDM", **request)


def value(made, image=0):
    """The value of AsynDM in an image's parameters."""
    from modules.infotext_utils import parse_generation_parameters

    return parse_generation_parameters(made.info["infotexts"][image])["AsynDM"]


def test_an_unchanged_pasted_prompt_takes_the_same_words_whatever_a_later_list(host, traces, later):
    first = make(host, **ticked(curvature=0.8))
    assert value(first) == "curvature=0.8; found=shark, bike, teddy bear"
    later()
    other = make(host, **ticked(curvature=0.8))
    assert value(other) == "curvature=0.8; found=bike"
    assert not np.array_equal(first.images[0], other.images[0])
    again = pasted(host, first.info["infotexts"][0])
    assert np.array_equal(first.images[0], again.images[0])
    assert value(again) == value(first) and "AsynDM note" not in again.parameters


def test_an_edited_prompt_is_chosen_for_anew_and_it_is_said(host, traces, later):
    first = make(host, **ticked(curvature=0.8))
    later()
    edited = pasted(host, first.info["infotexts"][0], prompt=PROMPT + ", at night")
    assert value(edited) == "curvature=0.8; found=bike"
    assert edited.parameters["AsynDM note"] == (
        "found: the prompt is not the pasted one; its objects are chosen anew."
    )


def test_an_image_of_an_old_version_says_that_the_choice_may_differ(host, traces):
    old = f"{PROMPT}\nSteps: 5, Sampler: Euler a, Seed: 1, Size: 128x128, AsynDM: on"
    made = pasted(host, old)
    assert made.parameters["AsynDM note"].startswith("found: the pasted image does not tell")
    assert "found=shark" in value(made)
    again = pasted(host, made.info["infotexts"][0])
    assert "AsynDM note" not in again.parameters


def test_written_words_are_no_found_ones(host, traces):
    made = make(host, **ticked(objects="shark"))
    assert value(made) == "objects=shark"
    assert made.parameters["AsynDM matched"] == [{"shark": [2]}]


@pytest.mark.parametrize("counts", [(2, 1), (1, 2), (2, 2)])
def test_images_with_prompts_of_their_own_tell_their_own_words(host, traces, counts):
    if REAL:
        pytest.skip("this host's API takes one prompt for all images")
    size, batches = counts
    prompts = ["a shark", "a bike", "a cat and a castle", "a dog"][: size * batches]
    made = make(host, prompts, batch_size=size, n_iter=batches, **ticked(curvature=0.8))
    first = made.info["index_of_first_image"]
    wanted = [["shark"], ["bike"], ["cat", "castle"], ["dog"]]
    for image, each in enumerate(wanted[: len(prompts)]):
        assert value(made, first + image) == f"curvature=0.8; found={', '.join(each)}"
    matched = made.parameters["AsynDM matched"]
    assert [list(image) for image in matched] == wanted[: len(prompts)]
    assert matched[0] == {"shark": [2]}


def test_the_hires_pass_tells_its_own_words_and_takes_them_again(host, traces, later):
    hires = {"enable_hr": True, "hr_prompt": "a castle and a dog", "denoising_strength": 0.6}
    first = make(host, **hires, **ticked(curvature=0.8))
    assert value(first).endswith("found=shark, bike, teddy bear; found_hires=castle, dog")
    assert [*first.parameters["AsynDM matched in hires"][0]] == ["castle", "dog"]
    later()
    text = first.info["infotexts"][0]
    if "Hires prompt" not in text:  # the stand-in does not paste the second pass
        text += ", Hires prompt: a castle and a dog"
    again = pasted(host, text, **hires)
    assert value(again) == value(first)
    assert np.array_equal(first.images[0], again.images[0])


def test_unticked_images_tell_nothing(host, traces):
    made = host.txt2img(prompt=PROMPT)
    assert not any(key.startswith("AsynDM") for key in made.parameters)
