"""What code gets wrong of the cases of ``words_kinds``.

As a program it judges any checkout of the repository: ``words_judge.py FOLDER [COUNT]`` prints how
many cases of each kind its code gets wrong.
"""

from __future__ import annotations

import sys
from collections import Counter
from typing import Any

import words_reference as reference
from words_kinds import KINDS, Case, cases


def judge(case: Case, words: Any) -> str:
    """What the code gets wrong, "" where nothing.

    Args:
        words: the module ``asyndm.core.words``.
    """
    if case.automatic is not None:
        chosen = words.auto_objects(case.typed)
        right = chosen == case.automatic[0]
        return "" if right else f"chose {chosen}"
    notes: tuple[str, ...] = ()
    try:
        objects = [(word.text, word.curvature) for word in words.parse_objects(case.typed)]
        if hasattr(words, "read_expression"):
            notes = words.read_expression(case.typed).notes
    except ValueError as error:
        text = str(error)
        right = case.error and case.error in text and "\n" not in text and len(text) < 120
        return "" if right else f"refused: {text[:200]}"
    if case.error:
        return f"no error but {objects[:5]}"
    if objects != case.objects:
        return f"read {objects}"
    if len(notes) != len(case.lines) or any(
        part not in note or len(note) > 300 or "\n" in note for part, note in zip(case.lines, notes)
    ):
        return f"noted {notes}"
    if not case.segments:
        return ""
    shown = [t for t, _ in reference.tokens("".join(t for t, _ in case.segments), case.notation)]
    for name, _ in objects:
        expected = reference.places(case.segments, name, case.notation)
        assert expected is not None, case
        found = words.find_tokens(name, shown)
        heard = reference.speaking("".join(text for text, _ in case.segments), case.notation)
        found = [[at for at in group if at in heard] for group in found]
        if found != expected:
            return f"{name!r} found at {found}, not {expected}, in {shown}"
    return ""


def main(folder: str, count: str = "2300") -> None:
    sys.path.insert(0, folder)
    from asyndm.core import words

    wrong: Counter[str] = Counter()
    for name, case in cases(int(count)):
        try:
            wrong[name] += bool(judge(case, words))
        except Exception:
            wrong[name] += 1
    for name in KINDS:
        print(f"{name:20} {wrong[name]}")


if __name__ == "__main__":
    main(*sys.argv[1:])
