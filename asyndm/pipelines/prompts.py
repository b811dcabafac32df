"""Where the objects of a pipeline's prompts lie among the tokens its network sees."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import zip_longest
from typing import Any

from asyndm.core.words import ObjectWord, find_tokens, objects_of, read_expression
from asyndm.network import AttentionCapture
from asyndm.pipelines.calls import network_of
from asyndm.pipelines.views import is_packed

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


def encoders_of(
    pipe: Any, prompt: str, seen: int | None = None, t5: int | None = None
) -> list[list[str]]:
    """The pieces of a prompt by each text encoder whose tokens the network sees, in its order.

    Args:
        pipe, prompt, seen: as in :func:`tokens_of`.
        t5: tokens that T5 reads at most; None = it says nothing of the words.
    """
    if getattr(pipe, "transformer", None) is None:
        return [tokens_of(pipe, prompt, seen)]
    found = []
    if hasattr(pipe, "tokenizer_3"):  # Stable Diffusion 3: CLIP's 77, then T5's
        clip = tokens_of(pipe, prompt)
        found.append(clip + [""] * (pipe.tokenizer_max_length - len(clip)))
    if t5 is not None:
        tokenizer = getattr(pipe, "tokenizer_3", None) or pipe.tokenizer_2
        ids = tokenizer(prompt, truncation=True, max_length=t5).input_ids
        found.append(tokenizer.convert_ids_to_tokens(ids))
    return found


def t5_tokens(pipe: Any, given: dict[str, Any]) -> int | None:
    """How many tokens T5 reads at most; None = its tokens say nothing of the prompt's words.

    Args:
        given: a call's arguments.
    """
    embeds, most = given.get("prompt_embeds"), given.get("max_sequence_length")
    if is_packed(network_of(pipe)):
        return most if embeds is None else embeds.shape[1]
    if getattr(pipe, "tokenizer_3", None) is None:
        return None
    clip = pipe.tokenizer_max_length
    if embeds is not None:  # zeros without its encoder
        return embeds.shape[1] - clip if bool(embeds[:, clip:].any()) else None
    if pipe.text_encoder_3 is None or given.get("prompt_3") is not None:
        return None
    return most


class PipelineWords:
    """The objects of a batch's prompts and their token positions.

    Args:
        pipe: whose tokeniser is asked.
        prompts: [B].
        expression: the object words, "" = found in each prompt.
        seen: as in :func:`tokens_of`.
        t5: as in :func:`encoders_of`.

    Attributes:
        columns: [B][1][O] token positions; every image lists the same number of objects, a word as
            often as it occurs. Where several text encoders give tokens, a list for each of them.
        matched: [B], token positions by word.
        unmatched: words a person wrote that no prompt has.
        notes: one line for each piece of the expression that is no word.

    Raises:
        SettingsError: an expression that cannot be read.
    """

    def __init__(
        self,
        pipe: Any,
        prompts: Sequence[str],
        expression: str = "",
        seen: int | None = None,
        t5: int | None = None,
    ) -> None:
        said = read_expression(expression)
        self.notes = list(said.notes)
        tokens = {prompt: encoders_of(pipe, prompt, seen, t5) for prompt in prompts}
        places = [
            [(word, _places(word.text, tokens[prompt])) for word in objects]
            for prompt, objects in zip(prompts, (objects_of(p, expression) for p in prompts))
        ]
        self.matched = [
            {word.text: sorted({p for each in at for p in _flat(each)}) for word, at in row if at}
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

    def capture(self, softmax: str = "text", grid: int | None = None) -> AttentionCapture | None:
        """What reads their attention; None where no prompt has an object."""
        return AttentionCapture(self.columns, grid, softmax) if any(self.steered) else None


def _places(word: str, encoders: list[list[str]]) -> list[list]:
    """The token positions of every occurrence; with several encoders a list for each of them."""
    parts, offset = [], 0
    for tokens in encoders:
        parts.append([[offset + p for p in at] for at in find_tokens(word, tokens)])
        offset += len(tokens)
    if len(parts) == 1:
        return parts[0]
    return [list(each) for each in zip_longest(*parts, fillvalue=_NOTHING)]


def _flat(positions: list) -> list[int]:
    """Positions of one encoder or several, in one list."""
    nested = bool(positions) and isinstance(positions[0], list)
    return [p for part in positions for p in part] if nested else positions
