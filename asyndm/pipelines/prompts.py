"""Where the objects of a pipeline's prompts lie among the tokens its network sees."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from asyndm.core.words import ObjectWord, find_tokens, objects_of, read_expression
from asyndm.network import AttentionCapture

_NOTHING: list[int] = []


def tokens_of(pipe: Any, prompt: str, seen: int | None = None) -> list[str]:
    """The pieces of a prompt as its text encoder sees them, start and end included.

    Args:
        pipe: whose tokeniser is asked.
        prompt: with the words of textual inversions as a person writes them.
        seen: tokens that the network sees; more than the encoder's 77 where long prompts were
            encoded in chunks.
    """
    tokenizer = getattr(pipe, "tokenizer", None) or pipe.tokenizer_2
    if hasattr(pipe, "maybe_convert_prompt"):
        prompt = pipe.maybe_convert_prompt(prompt, tokenizer)
    most = tokenizer.model_max_length
    if seen is None or seen <= most:
        ids = tokenizer(prompt, truncation=True, max_length=most).input_ids
        return tokenizer.convert_ids_to_tokens(ids)
    ids = tokenizer(prompt, truncation=False, verbose=False).input_ids[1:-1]
    pieces = tokenizer.convert_ids_to_tokens(ids)
    start, end = tokenizer.bos_token, tokenizer.eos_token
    found: list[str] = []
    for at in range(0, max(len(pieces), 1), most - 2):
        chunk = [start, *pieces[at : at + most - 2], end]
        found += chunk + [end] * (most - len(chunk))
    return found[:seen]


class PipelineWords:
    """The objects of a batch's prompts and their token positions.

    Args:
        pipe: whose tokeniser is asked.
        prompts: [B].
        expression: the object words, "" = found in each prompt.
        seen: as in :func:`tokens_of`.

    Attributes:
        columns: [B][1][O] token positions; every image lists the same number of objects, a word as
            often as it occurs.
        matched: [B], token positions by word.
        unmatched: words a person wrote that no prompt has.
        notes: one line for each piece of the expression that is no word.

    Raises:
        SettingsError: an expression that cannot be read.
    """

    def __init__(
        self, pipe: Any, prompts: Sequence[str], expression: str = "", seen: int | None = None
    ) -> None:
        said = read_expression(expression)
        self.notes = list(said.notes)
        tokens = {prompt: tokens_of(pipe, prompt, seen) for prompt in prompts}
        places = [
            [(word, find_tokens(word.text, tokens[prompt])) for word in objects]
            for prompt, objects in zip(prompts, (objects_of(p, expression) for p in prompts))
        ]
        self.matched = [
            {word.text: sorted({p for each in at for p in each}) for word, at in row if at}
            for row in places
        ]
        # Written words are the same in all prompts, and so are their places among the objects.
        rows = [[at for _, at in row] for row in places]
        self._own: list[ObjectWord] = []
        if said.objects:
            times = [max(1, *map(len, same)) for same in zip(*rows)]
            rows = [[at + [_NOTHING] * (n - len(at)) for at, n in zip(row, times)] for row in rows]
            self._own = [word for (word, _), n in zip(places[0], times) for _ in range(n)]
        found = [[positions for at in row for positions in at] for row in rows]
        self._most = max(map(len, found), default=0)
        self.columns = [[row + [_NOTHING] * (self._most - len(row))] for row in found]
        have = {word for row in self.matched for word in row}
        self.unmatched = [word.text for word in said.objects if word.text not in have]

    @property
    def steered(self) -> list[bool]:
        """[B], which prompts have an object."""
        return [bool(row) for row in self.matched]

    def curvatures(self, general: float) -> list[float]:
        """One an object: its own, or its share of the general one."""
        return [word.k(general) for word in self._own] or [general] * self._most

    def capture(self) -> AttentionCapture | None:
        """What reads their attention; None where no prompt has an object."""
        return AttentionCapture(self.columns) if any(self.steered) else None
