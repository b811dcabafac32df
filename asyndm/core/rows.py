"""Which image, and which part of its prompt, each row of a network call belongs to."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

UNCONDITIONAL = -1


@dataclass(frozen=True)
class Rows:
    """Which image and which part of its prompt each row of a network call belongs to.

    Attributes:
        image: [rows] long.
        part: [rows] long; -1 = unconditional, 0, 1, ... = the prompt's parts (AND).
        images, parts: the same as Python tuples, for code that must not wait for the device.
    """

    image: Tensor
    part: Tensor
    images: tuple[int, ...]
    parts: tuple[int, ...]

    @classmethod
    def of(
        cls, images: Sequence[int], parts: Sequence[int], device: torch.device | str = "cpu"
    ) -> Rows:
        """Rows from two lists of equal length.

        Raises:
            ValueError: the lengths differ.
        """
        if len(images) != len(parts):
            raise ValueError(f"{len(images)} images and {len(parts)} parts do not make rows.")
        # Two steps, since torch.tensor(list, device=...) would wait for the device.
        image, part = (
            torch.tensor(list(column), dtype=torch.long).to(device, non_blocking=True)
            for column in (images, parts)
        )
        return cls(image, part, tuple(images), tuple(parts))

    @classmethod
    def only_cond(
        cls, batch: int, parts: int | Sequence[int] = 1, device: torch.device | str = "cpu"
    ) -> Rows:
        """Each image's prompt parts in order. ``parts``: how many, for all or image by image."""
        return cls.of(*_conditional(batch, parts), device)

    @classmethod
    def cond_then_uncond(
        cls, batch: int, parts: int | Sequence[int] = 1, device: torch.device | str = "cpu"
    ) -> Rows:
        """Conditional rows first, as AUTOMATIC1111 lays them."""
        images, order = _conditional(batch, parts)
        return cls.of([*images, *range(batch)], [*order, *[UNCONDITIONAL] * batch], device)

    @classmethod
    def uncond_then_cond(
        cls, batch: int, parts: int | Sequence[int] = 1, device: torch.device | str = "cpu"
    ) -> Rows:
        """Unconditional rows first, as diffusers lays them."""
        images, order = _conditional(batch, parts)
        return cls.of([*range(batch), *images], [*[UNCONDITIONAL] * batch, *order], device)

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, rows: slice) -> Rows:
        """The rows of one of several consecutive calls a host cuts a batch into."""
        return Rows(self.image[rows], self.part[rows], self.images[rows], self.parts[rows])


def _conditional(batch: int, parts: int | Sequence[int]) -> tuple[list[int], list[int]]:
    counts = [parts] * batch if isinstance(parts, int) else list(parts)
    if len(counts) != batch:
        raise ValueError(f"parts: one number for each of the {batch} images is needed.")
    images = [image for image, count in enumerate(counts) for _ in range(count)]
    return images, [part for count in counts for part in range(count)]
