"""What was matched in a job, image by image: for its parameters and for API clients."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from asyndm.core.settings import Settings
from asyndm.hosts import infotext

# In the answer to an API client: a list, one entry an image, of token positions by word.
MATCHED_KEY = "AsynDM matched"
MATCHED_HIRES_KEY = "AsynDM matched in hires"
KEYS = (MATCHED_KEY, MATCHED_HIRES_KEY)


class Taken:
    """The words that steered each image of a job, by its number in the job.

    Attributes:
        first, hires: token positions by word, by image; of the first and of the hires pass.
        automatic: whether nobody wrote them.
        always: settings that its parameters tell at their defaults, too.
    """

    def __init__(self) -> None:
        self.always: tuple[str, ...] = ()
        self.first: dict[int, Mapping[str, list[int]]] = {}
        self.hires: dict[int, Mapping[str, list[int]]] = {}
        self.automatic = False

    def add(
        self, start: int, images: Sequence[Mapping[str, list[int]]], hires: bool, automatic: bool
    ) -> None:
        """What was matched in one sampling call, of the images from number ``start`` on."""
        self.automatic = automatic
        (self.hires if hires else self.first).update(enumerate(images, start))

    def text(self, settings: Settings, image: int) -> str:
        """The value of ``AsynDM`` in one image's parameters."""
        if not self.automatic:
            return infotext.to_text(settings, always=self.always)
        first = [*self.first.get(image, ())]
        hires = [*self.hires.get(image, ())]
        return infotext.to_text(settings, first, hires, self.always)

    def common(self, settings: Settings, images: Sequence[int]) -> str:
        """The same for several images; without words where theirs differ."""
        texts = {self.text(settings, image) for image in images}
        return texts.pop() if len(texts) == 1 else infotext.to_text(settings, always=self.always)

    def answer(self) -> dict[str, list[dict[str, list[int]]]]:
        """What API clients are told, by key."""
        told = {}
        if self.first or self.hires:
            told[MATCHED_KEY] = _listed(self.first)
        if self.hires and self.hires != self.first:
            told[MATCHED_HIRES_KEY] = _listed(self.hires)
        return told


class ByImage(str):
    """A text that hosts write into parameters; those that call it get each image's own."""

    _of: Callable[[int], str] | None

    def __new__(cls, text: str, of: Callable[[int], str] | None = None) -> ByImage:
        self = super().__new__(cls, text)
        self._of = of
        return self

    def __call__(
        self,
        p: Any = None,
        index: int = 0,
        all_prompts: Sequence[str] = (),
        use_main_prompt: bool = False,
        **_: Any,
    ) -> str:
        if self._of is None:
            return str(self)
        if use_main_prompt:  # of a grid
            index = 0
        elif len(all_prompts) != len(getattr(p, "all_prompts", None) or ()):  # of one batch
            index += getattr(p, "iteration", 0) * getattr(p, "batch_size", 1)
        return self._of(index)


def _listed(images: Mapping[int, Mapping[str, list[int]]]) -> list[dict[str, list[int]]]:
    return [dict(images.get(j, {})) for j in range(max(images, default=-1) + 1)]
