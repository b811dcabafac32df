"""What a steered call leaves to look at."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from PIL import Image

from asyndm.core.history import Frame
from asyndm.guidance.measure import Measured
from asyndm.page.preview import Steps, film_strip, heat_map, mean_mask


@dataclass
class Steered:
    """Of the last call of the pipeline inside the ``with`` block.

    Attributes:
        notes: one line each: what could not act, words that were not found, why a picture is the
            pipeline's own.
        film: a :class:`~asyndm.core.history.Frame` for each step: mask, clock, noise level and
            timestep of every pixel, [B, gh, gw] on the CPU. Empty where no pixel was steered.
        words: [B], the token positions of each object by word.
        last_mask: [B, gh, gw], the mask that was read last; None without a film.
        measured: [B], network rows and effective guidance of each picture; empty where the call was
            the pipeline's own.
    """

    notes: list[str] = field(default_factory=list)
    film: list[Frame] = field(default_factory=list)
    words: list[dict[str, list[int]]] = field(default_factory=list)
    measured: list[Measured] = field(default_factory=list)
    last_mask: np.ndarray | None = None

    @property
    def masks(self) -> np.ndarray | None:
        """[B, gh, gw], the share of the steps in which a pixel was object; None = no film."""
        if not self.film:
            return None
        return np.stack([mean_mask(self.film, j) for j in range(len(self.film[0].mask))])

    def heat_map(self, image: Image.Image, j: int = 0) -> Image.Image:
        """:attr:`masks` of picture ``j`` over the picture itself.

        Raises:
            IndexError: nothing was steered, or no such picture.
        """
        return heat_map(image, self._masks()[j], ", ".join(self.words[j]) if self.words else "")

    def strip(self, j: int = 0) -> Image.Image:
        """The film of picture ``j``: masks and timesteps, step by step.

        Raises:
            IndexError: as :meth:`heat_map`.
        """
        self._masks()[j]
        masks = [frame.mask[j].numpy() for frame in self.film]
        return film_strip(Steps(masks, [frame.timestep[j].numpy() for frame in self.film], {}))

    def clear(self) -> None:
        """Forget a call."""
        for each in (self.notes, self.film, self.words, self.measured):
            each.clear()
        self.last_mask = None

    def _masks(self) -> np.ndarray:
        masks = self.masks
        if masks is None:
            raise IndexError("No pixel was steered: there is no film of this call.")
        return masks
