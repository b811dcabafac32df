"""Prompts inside a WebUI: what its parser and its tokeniser make of them."""

from __future__ import annotations

import pytest
from jobs import (
    PROMPTS,
    apart,
    make,
    ticked,
)


def test_prompt_editing_keeps_its_time_under_a_sampler_of_two_calls_a_step(host, traces):
    """Heun calls the network twice a step and the host counts that into the schedule."""
    asked = {"prompt": "a [cat:dog:0.5]", "sampler_name": "Heun"}
    plain = make(host, "txt2img", **asked)
    same = make(host, "txt2img", **asked, **ticked(curvature=1e-9))
    made = make(host, "txt2img", **asked, **ticked(curvature=0.6))
    assert apart(plain.images[0], same.images[0]) <= 1
    assert apart(plain.images[0], made.images[0]) > 3


@pytest.mark.parametrize("name", PROMPTS)
@pytest.mark.parametrize("batch", [1, 3])
def test_prompts_of_every_kind(host, traces, name, batch):
    asked = {"prompt": PROMPTS[name], "negative_prompt": "blurry", "batch_size": batch}
    plain = make(host, "txt2img", **asked)
    same = make(host, "txt2img", **asked, **ticked(curvature=1e-9))
    made = make(host, "txt2img", **asked, **ticked(curvature=0.9))
    for one, two, three in zip(plain.images, same.images, made.images):
        assert apart(one, two) <= 1
        assert apart(one, three) > 3
    assert "AsynDM note" not in made.parameters


@pytest.mark.parametrize("separately", [True, False])
def test_cond_and_uncond_in_one_call_or_two(host, traces, separately):
    if not hasattr(host.shared.opts, "batch_cond_uncond"):
        pytest.skip("this host goes by its memory alone")
    asked = {"batch_size": 2, "prompt": PROMPTS["AND"]}
    options = {"override_settings": {"batch_cond_uncond": not separately}}
    plain = make(host, "txt2img", **asked, **options)
    same = make(host, "txt2img", **asked, **options, **ticked(curvature=1e-9))
    made = make(host, "txt2img", **asked, **options, **ticked(curvature=0.9))
    other = make(host, "txt2img", **asked, **ticked(curvature=0.9))
    for one, two, three, four in zip(plain.images, same.images, made.images, other.images):
        assert apart(one, two) <= 1 and apart(three, four) <= 2


@pytest.mark.parametrize("option", [{"s_min_uncond": 4.0}, {"skip_early_cond": 0.4}])
def test_steps_without_unconditional_rows(host, traces, monkeypatch, option):
    for name in option:  # Neo puts back only what was set before
        monkeypatch.setitem(host.shared.opts.data, name, getattr(host.shared.opts, name))
    plain = make(host, "txt2img", override_settings=option)
    same = make(host, "txt2img", override_settings=option, **ticked(curvature=1e-9))
    made = make(host, "txt2img", override_settings=option, **ticked(curvature=0.9))
    assert apart(plain.images[0], same.images[0]) <= 1
    assert apart(plain.images[0], made.images[0]) > 3


def test_where_words_lie_among_the_tokens(host):
    from asyndm.core.words import find_tokens
    from asyndm.hosts import detect

    tokenize = detect.find_host().samplers.run.tokenize

    def at(word, text):
        return find_tokens(word, tokenize(text)[0])

    assert at("cat", "a (red:1.2) cat BREAK on a sofa") == [[3]]
    assert at("sofa", "a (red:1.2) cat BREAK on a sofa") == [[80]]
    assert at("cats", "one ((cat)), two cats") == [[2], [5]]
    (several,) = at("chrysanthemumlike", "a chrysanthemumlike vase")
    assert several == list(range(2, 2 + len(several))) and len(several) > 1
