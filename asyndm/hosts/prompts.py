"""In a WebUI: where a prompt's objects lie among the tokens the network sees.

WebUIs split a prompt at AND, let ``[a:b:0.5]`` change it over the steps, and encode it in chunks
of 77 tokens (BREAK starts a new one): position = 77 * chunk + index. All of that is asked of the
host's own functions.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from typing import Any

from modules import prompt_parser

from asyndm.core.found import Found
from asyndm.core.wildcards import expand
from asyndm.core.words import ObjectWord, find_tokens, objects_of, read_expression
from asyndm.hosts.shims import prompt_schedules, total_steps
from asyndm.network import UnsupportedNetwork

_CHUNK = 77
# What the tokens of a textual inversion are called, whose ids say nothing; a word of its own.
_NAMELESS = "</w>"
# (strings by position, for the first position of each textual inversion all of its)
Tokens = tuple[list[str], dict[int, list[int]]]


@dataclass(frozen=True)
class Timeline:
    """One part of a prompt over the steps: up to ``ends[i]`` (inclusive) ``texts[i]`` is shown."""

    ends: tuple[int, ...]
    texts: tuple[str, ...]

    def text(self, step: int) -> str:
        """As the host picks it: the first entry that has not ended, else the first of all."""
        for end, text in zip(self.ends, self.texts):
            if step <= end:
                return text
        return self.texts[0]


class PromptWords:
    """The objects of a batch's prompts and their token positions, step by step.

    Args:
        prompts: [B], as the host encodes them (extra networks taken out).
        expression: the user's object words, "" = found in each prompt.
        conditioning: the host's ``MulticondLearnedConditioning`` of these prompts.
        steps, hires_steps: what the host scheduled the prompts with.
        tokenize: text -> its tokens as the loaded model sees them; a list of them where several
            text encoders give tokens of their own, one after the other.
        known: [B], the words a pasted image tells of its prompt; None = they are chosen now.

    Attributes:
        objects: [B] of tuples; all filled up to the same number with None. A word that occurs
            several times is there as often: one mask an occurrence, and so their union.
        matched: token positions by word over all parts and steps, of the first image that has it.
        unmatched: words the user wrote that no prompt holds.
        steered: [B] whether the image's prompt has an object in any step.
        notes: one line for each piece of the expression that is no word.
        automatic: nobody wrote the words.
        by_image: [B], token positions by word that was found in an image's prompt.
    """

    def __init__(
        self,
        prompts: Sequence[str],
        expression: str,
        conditioning: Any,
        steps: int,
        hires_steps: int | None,
        tokenize: Callable[[str], Tokens | list[Tokens]],
        known: Sequence[tuple[ObjectWord, ...] | None] = (),
    ) -> None:
        self._tokenize = tokenize
        self._positions: dict[tuple[str, str], list[list]] = {}
        self._tokens: dict[str, list[Tokens]] = {}
        said = read_expression(expression)
        self.notes = said.notes
        self.automatic = not said.objects
        known = known if self.automatic and known else [None] * len(prompts)
        found = [
            objects_of(prompt, expression) if words is None else words
            for prompt, words in zip(prompts, known)
        ]
        self._timelines = [
            _timelines(prompt, parts, steps, hires_steps)
            for prompt, parts in zip(prompts, conditioning.batch)
        ]
        self.matched: dict[str, list[int]] = {}
        self.by_image: list[dict[str, list[int]]] = [{} for _ in prompts]
        missing: dict[str, None] = {}
        # Written words are the same in all images, so are their places among the objects.
        times: dict[tuple[int, str], int] = {}
        for image, (words, timelines) in enumerate(zip(found, self._timelines)):
            for word in words:
                texts = [text for timeline in timelines for text in timeline.texts]
                places = [self._find(word, text) for text in texts]
                key = (-1 if said.objects else image, word.text)
                times[key] = max(1, times.get(key, 1), *map(len, places))
                at = sorted({p for place in places for group in place for p in _flat(group)})
                if at:
                    self.matched.setdefault(word.text, at)
                    self.by_image[image][word.text] = at
                elif said.objects:
                    missing[word.text] = None
        self.steered = [
            any(self._find(word, text) for word in words for t in timelines for text in t.texts)
            for words, timelines in zip(found, self._timelines)
        ]
        self.unmatched = [word for word in missing if word not in self.matched]
        slots = [
            [
                (word, number)
                for word in words
                for number in range(times[-1 if said.objects else image, word.text])
            ]
            for image, words in enumerate(found)
        ]
        most = max(map(len, slots))
        self._slots = [row + [(None, 0)] * (most - len(row)) for row in slots]
        self.objects: list[tuple[ObjectWord | None, ...]] = [
            tuple(word for word, _ in row) for row in self._slots
        ]

    def columns(self, step: int) -> list[list[list[list[int]]]]:
        """``[image][part][object]`` -> token positions in what is shown at a step."""
        return [
            [
                [self._occurrence(word, timeline.text(step), number) for word, number in row]
                for timeline in timelines
            ]
            for row, timelines in zip(self._slots, self._timelines)
        ]

    def _occurrence(self, word: ObjectWord | None, text: str, number: int) -> list:
        places = self._find(word, text) if word else []
        return places[number] if number < len(places) else []

    def curvatures(self, general: float) -> list[float]:
        """One an object. Only words the user wrote have their own, and those are in all images."""
        return [general if word is None else word.k(general) for word in self.objects[0]]

    def has(self, word: ObjectWord, text: str) -> bool:
        """Whether a text has a word, by the model's own tokens."""
        return bool(self._find(word, text))

    def _find(self, word: ObjectWord, text: str) -> list[list]:
        """The token positions of every occurrence, with several encoders a list for each."""
        key = (word.text, text)
        if key not in self._positions:
            parts, offset = [], 0
            for tokens, embeddings in self._read(text):
                # A textual inversion is found by its first vector and takes the others along.
                parts.append(
                    [
                        sorted({offset + q for p in at for q in embeddings.get(p, [p])})
                        for at in find_tokens(word.text, tokens)
                    ]
                )
                offset += len(tokens)
            if len(parts) == 1:
                self._positions[key] = parts[0]
            else:  # the same occurrence in each
                pairs = zip_longest(*parts, fillvalue=[])
                self._positions[key] = [list(each) for each in pairs]
        return self._positions[key]

    def _read(self, text: str) -> list[Tokens]:
        if text not in self._tokens:
            tokens = self._tokenize(text)
            self._tokens[text] = tokens if isinstance(tokens, list) else [tokens]
        return self._tokens[text]


def _flat(positions: list) -> list[int]:
    """Positions of one encoder or several, in one list."""
    nested = bool(positions) and isinstance(positions[0], list)
    return [p for part in positions for p in part] if nested else positions


def is_hires(p: Any) -> bool:
    """True in the second pass of hires fix."""
    return bool(getattr(p, "is_hr_pass", False))


def words_of(
    p: Any,
    expression: str,
    conditioning: Any,
    tokenize: Callable[[str], Tokens],
    found: Found | None = None,
) -> PromptWords:
    """The objects of the batch that a job is sampling, in the pass it is in."""
    hires = is_hires(p)
    prompts = prompts_of(p)
    written = expression
    expression = _expanded(p, expression, prompts, hires)
    steps = getattr(p, "firstpass_steps", p.steps)
    known = [found.of(text, written) for text in written_prompts(p)] if found else ()
    return PromptWords(
        *(prompts, expression, conditioning, steps, _hires_steps(p) if hires else None, tokenize),
        known=known,
    )


def prompts_of(p: Any) -> list[str]:
    """[B], the prompts of the batch and pass a job is in, as the host encodes them."""
    return (getattr(p, "hr_prompts", None) or p.prompts) if is_hires(p) else p.prompts


def written_prompts(p: Any) -> list[str]:
    """The same as an image's parameters tell them, before extensions touched the batch's."""
    prompts = prompts_of(p)
    whole = getattr(p, "all_hr_prompts" if is_hires(p) else "all_prompts", None) or ()
    first = getattr(p, "iteration", 0) * len(prompts)
    written = list(whole[first : first + len(prompts)])
    return written if len(written) == len(prompts) else list(prompts)


def _expanded(p: Any, expression: str, prompts: Sequence[str], hires: bool) -> str:
    """The expression with wildcards as the batch's prompts have them, where all agree."""
    typed = (getattr(p, "hr_prompt", "") if hires else "") or p.prompt
    if not isinstance(typed, str):
        return expression
    became = {expand(expression, typed, prompt) for prompt in prompts}
    return became.pop() if len(became) == 1 else expression


def _hires_steps(p: Any) -> int:
    """The steps the host schedules a second pass's prompts with."""
    return total_steps(p.hr_sampler_name or p.sampler_name, p.hr_second_pass_steps or p.steps)


def classic_tokens(owners: Iterable[Any], text: str) -> Tokens:
    """The tokens of a text by the first text encoder of the WebUI's kind, with ``tokenize_line``.

    Args:
        owners: encoders, or what holds several as ``embedders`` (SDXL's, alike in position); None
            where a host has none.

    Raises:
        UnsupportedNetwork: there is no such encoder.
    """
    encoders = (e for owner in owners for e in (owner, *getattr(owner, "embedders", ())))
    encoder = next((e for e in encoders if hasattr(e, "tokenize_line")), None)
    if encoder is None:
        raise UnsupportedNetwork("This model's text encoder does not say how it reads a prompt.")
    chunks, _ = encoder.tokenize_line(text)
    tokens: list[str] = []
    embeddings: dict[int, list[int]] = {}
    for number, chunk in enumerate(chunks):
        words = _strings(encoder, chunk.tokens)
        for fix in chunk.fixes:
            first = fix.offset + 1  # the start token is not counted in the offset
            vectors = range(first, first + int(fix.embedding.vectors))
            for position in vectors:
                words[position] = _NAMELESS
            words[first] = fix.embedding.name + "</w>"
            place = number * _CHUNK
            embeddings[place + first] = [place + position for position in vectors]
        tokens += words
    return tokens, embeddings


def _strings(encoder: Any, ids: Sequence[int]) -> list[str]:
    """CLIP's pieces by id: transformers' tokeniser for SD 1, open_clip's for SD 2."""
    tokenizer = getattr(encoder, "tokenizer", None)
    if hasattr(tokenizer, "convert_ids_to_tokens"):
        return tokenizer.convert_ids_to_tokens(list(ids))
    from modules import sd_hijack_open_clip  # carries open_clip's own tokeniser

    decoder = sd_hijack_open_clip.tokenizer.decoder
    return [decoder.get(int(number), _NAMELESS) for number in ids]


def _timelines(
    prompt: str, parts: Sequence[Any], steps: int, hires_steps: int | None
) -> list[Timeline]:
    """One an AND part of one prompt, in the order of the host's rows."""
    indexes, flat, _ = prompt_parser.get_multicond_prompt_list([prompt])
    texts = [flat[index] for index, _ in indexes[0]]
    schedules = prompt_schedules(texts, steps, hires_steps)
    timelines = []
    for number, part in enumerate(parts):
        ends = tuple(entry.end_at_step for entry in part.schedules)
        entries = schedules[number] if number < len(schedules) else []
        if len(entries) == len(ends):
            timelines.append(Timeline(ends, tuple(text for _, text in entries)))
        else:  # another extension made this conditioning: take the words as they stand
            text = texts[number] if number < len(texts) else ""
            timelines.append(Timeline((ends[-1],), (text,)))
    return timelines
