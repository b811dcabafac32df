"""What a wildcard of the expression became in the prompt."""

from __future__ import annotations

import pytest

from asyndm.core.wildcards import expand


@pytest.mark.parametrize(
    ("expression", "typed", "prompt", "expected"),
    [
        ("__animal__", "a __animal__ here", "a cat here", "cat"),
        ("__animal__:0.7, bike", "a __animal__ on a bike", "a cat on a bike", "cat:0.7, bike"),
        ("__animal__", "__animal__", "red panda", "red panda"),
        ("__animal__", "a __animal__", "a cat, by an artist", "cat"),  # a style behind it
        ("__animal__", "a __animal__ here", "best, a cat here, 8k", "cat"),  # and around it
        ("__animal__", "<lora:x:1>a __animal__ here", "a cat here", "cat"),
        ("__b__", "a __a__ on {one|two} __b__ .", "a cat on one bike .", "__b__"),  # unsure
        ("__b__", "a __a__ on {x|y} with __b__ .", "a cat on x with bike .", "bike"),
        ("__a__, __b__", "__a__ and __b__ !", "cat and dog !", "cat, dog"),
        ("__a__", "__a__ and __a__ !", "cat and dog !", "cat, dog"),
        ("__a__", "a cat", "a cat", "__a__"),
        ("__a__", "a __a__", "a __a__", "__a__"),  # nothing expanded it
        ("__a__", "a __a__ here", "something else", "__a__"),
        ("cat", "a __a__", "a dog", "cat"),
    ],
)
def test_a_wildcard_is_what_the_host_made_of_it(expression, typed, prompt, expected):
    assert expand(expression, typed, prompt) == expected


def test_many_wildcards_take_one_pass():
    typed = "__a__ x " * 5000
    assert expand("__a__", typed, "cat x " * 5000) == "cat"
