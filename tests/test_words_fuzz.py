"""10,000 expressions and prompts of every kind through CLIP's real tokeniser.

Each is compared with ``words_reference``, which imports nothing of the code it judges. The code
of 2d9ea84, before all this, fails every kind. Of 100 cases each it got wrong, by
``python tests/words_judge.py FOLDER 2400``:

scripts 88, emoji 100, quotes 34, apostrophes 21, stripped_accents 100, inside_words 18,
separators 100, curvatures 68, wrong_curvatures 31, never_zero 100, behind_numbers 99,
alternations 83, joined 100, one_thing 63, names_with_colons 100, no_words 100, articles 100,
plurals 5, several_words 14, numbers_before 100, wildcards 100, minus 100, unwanted 100,
very_long 100.
"""

from __future__ import annotations

import words_judge
import words_kinds
import words_reference

from asyndm.core import words

COUNT = 10_000


def test_expressions_and_prompts_of_every_kind():
    wrong: dict[str, str] = {}
    judged = 0
    for name, case in words_kinds.cases(COUNT):
        judged += 1
        if fault := words_judge.judge(case, words):
            wrong.setdefault(name, f"{case.typed[:200]!r} ({case.notation}): {fault}")
    assert judged == COUNT
    assert not wrong, "\n".join(f"{name}: {fault}" for name, fault in wrong.items())


def test_the_reference_imports_nothing_it_judges():
    for module in (words_kinds, words_reference, words_reference.clip_pieces):
        assert not any(
            str(getattr(thing, "__module__", "")).startswith("asyndm")
            for thing in vars(module).values()
        )
        assert "asyndm" not in vars(module)
