"""Prompts of every kind through the host's own parser and tokeniser; no image is made."""

from __future__ import annotations

from types import SimpleNamespace

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

PIECES = r"""
cat dogs (red:1.2) ((sofa)) [bird] [cat:dog:0.5] [cat:3] [a|b] AND BREAK , . :0.8 ( ) [ ] { }
<b>dog</b> <lora:x:1> </script> & \( \) chrysanthemumlike über 猫 🐈 1girl a_b :: -1 ''
"""
pieces = st.sampled_from([*PIECES.split(), "\n"])
words = st.text(st.characters(codec="utf-8", exclude_categories=("Cs",)), max_size=12)
prompts = st.lists(pieces | words, max_size=60).map(" ".join)
expressions = st.just("") | st.lists(pieces | words, max_size=4).map(", ".join)


def conditioning(prompts):
    """What the host makes of prompts, as far as PromptWords looks at it."""
    from modules import prompt_parser

    indexes, flat, _ = prompt_parser.get_multicond_prompt_list(prompts)
    schedules = prompt_parser.get_learned_conditioning_prompt_schedules(flat, 20)
    return SimpleNamespace(
        batch=[
            [
                SimpleNamespace(
                    schedules=[SimpleNamespace(end_at_step=end) for end, _ in schedules[index]]
                )
                for index, _ in parts
            ]
            for parts in indexes
        ]
    )


@settings(
    max_examples=600, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck)
)
@given(st.lists(prompts, min_size=1, max_size=2), expressions)
def test_no_prompt_crashes_and_every_position_exists(host, texts, expression):
    from asyndm.core.settings import SettingsError
    from asyndm.hosts import detect
    from asyndm.hosts.prompts import PromptWords

    tokenize = detect.find_host().samplers.run.tokenize
    made = conditioning(texts)
    try:
        found = PromptWords(texts, expression, made, 20, None, tokenize)
    except SettingsError as error:
        assert "\n" not in str(error)
        return
    for step in (0, 10, 19):
        columns = found.columns(step)
        assert len(columns) == len(texts)
        assert len({len(part) for image in columns for part in image}) == 1
        for image, parts in zip(columns, made.batch):
            assert len(image) == len(parts)
            for positions in (at for part in image for at in part):
                assert all(position % 77 not in (0, 76) for position in positions)
    assert len(found.curvatures(0.5)) == len(found.objects[0])


def test_a_word_that_occurs_twice_has_one_mask_an_occurrence(host):
    from asyndm.hosts import detect
    from asyndm.hosts.prompts import PromptWords

    tokenize = detect.find_host().samplers.run.tokenize
    texts = ["a cat on a sofa and a cat", "a cat"]
    found = PromptWords(texts, "cat:0.7, sofa", conditioning(texts), 20, None, tokenize)
    first, second = ([at for part in image for at in part] for image in found.columns(0))
    cats, sofa = first[:2], first[2]
    assert all(len(at) == 1 for at in first) and cats[0] < sofa < cats[1]
    assert found.matched["cat"] == [*cats[0], *cats[1]]
    assert second[0] and second[1:] == [[], []]  # the same places among the objects in every image
    assert found.curvatures(0.5) == [0.7, 0.7, 0.5]


def test_a_wildcard_is_what_became_of_it(host):
    from asyndm.hosts import detect
    from asyndm.hosts.prompts import words_of

    tokenize = detect.find_host().samplers.run.tokenize
    p = SimpleNamespace(prompt="a __animal__ here", prompts=["a cat here"], steps=20)
    made = words_of(p, "__animal__:0.7", conditioning(p.prompts), tokenize)
    assert made.matched == {"cat": [2]} and made.curvatures(0.5) == [0.7] and not made.notes
    p.prompts = ["a cat here", "a dog here"]
    made = words_of(p, "cat, __animal__", conditioning(p.prompts), tokenize)
    assert made.matched == {"cat": [2]} and len(made.notes) == 1


def test_each_text_encoder_is_matched_alone_with_its_own_offset(host):
    """CLIP at 0 to 76, T5 from 77: the first cat of both is one mask, the second the other."""
    from asyndm.hosts.prompts import PromptWords

    clip = ["<|startoftext|>", *(f"{word}</w>" for word in "a cat and a cat".split())]
    clip += ["<|endoftext|>"] * (77 - len(clip))
    t5 = ["▁A", "▁", "cat", "▁and", "▁", "a", "▁cat", "</s>"]
    prompt = ["a cat and a cat"]
    found = PromptWords(
        prompt, "cat, dog", conditioning(prompt), 20, None, lambda text: [(clip, {}), (t5, {})]
    )
    assert found.columns(0) == [[[[[2], [79]], [[5], [83]], []]]]
    assert found.matched == {"cat": [2, 5, 79, 83]} and found.unmatched == ["dog"]
