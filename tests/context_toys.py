"""Denoisers whose context map has a closed form, in the place of networks."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from asyndm.core.parametrisation import EpsParametrisation
from asyndm.core.schedule import PixelTime

SIZE, CHANNELS = 8, 4
BETAS = torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64) ** 2
TABLE = EpsParametrisation(torch.cumprod(1 - BETAS, 0))


def object_masks(count: int, generator: torch.Generator) -> Tensor:
    """bool [N, 1, 8, 8], a square of 3 x 3 cells at a random place."""
    masks = torch.zeros(count, 1, SIZE, SIZE, dtype=torch.bool)
    for mask, (y, x) in zip(masks, torch.randint(SIZE - 2, (count, 2), generator=generator)):
        mask[0, y : y + 3, x : x + 3] = True
    return masks


class Toy:
    """A denoiser that knows where the objects are; nothing reads attention in it."""

    where: Tensor  # bool [N, 1, 8, 8]

    def masks(self) -> None:
        return None


@dataclass
class Related(Toy):
    """Objects and background that share a factor g; the ideal denoiser of that Gaussian.

    A cell of a picture is x0 = a g + tau e with g, e ~ N(0, 1), one g a channel; (a, tau) is
    ``objects`` where an object is, else ``background``. Without correlation a = 0 in one of them.

    Attributes:
        believed: the (a, tau) the denoiser takes for the background's, if not the true ones.
    """

    where: Tensor
    objects: tuple[float, float] = (1.0, 0.3)
    background: tuple[float, float] = (0.4, 1.0)
    believed: tuple[float, float] | None = None

    def _loads(self, background: tuple[float, float]) -> tuple[Tensor, Tensor]:
        return tuple(
            torch.where(self.where, one, two) for one, two in zip(self.objects, background)
        )

    def pictures(self, generator: torch.Generator) -> Tensor:
        shape = (len(self.where), CHANNELS, SIZE, SIZE)
        a, tau = self._loads(self.background)
        factor = torch.randn(*shape[:2], 1, 1, generator=generator)
        return a * factor + tau * torch.randn(shape, generator=generator)

    def variance(self, sigma: Tensor) -> Tensor:
        """The closed form: the error of D at every cell, [N, 1, 8, 8]."""
        a, tau = self._loads(self.background)
        own = tau**2 / (tau**2 + sigma**2)
        left = 1 / (1 + (a**2 / (tau**2 + sigma**2)).sum((2, 3), keepdim=True))
        return own * sigma**2 + (a * (1 - own)) ** 2 * left

    def __call__(self, x: Tensor, time: PixelTime) -> Tensor:
        a, tau = self._loads(self.believed or self.background)
        noise = tau**2 + time.sigma_map() ** 2
        told = (a * x / noise).sum((2, 3), keepdim=True)
        factor = told / (1 + (a**2 / noise).sum((2, 3), keepdim=True))
        return a * factor + tau**2 / noise * (x - a * factor)


@dataclass
class Apart(Toy):
    """Independent pixels, object or background by chance, and an ideal denoiser of them.

    Where one timestep is everywhere it weighs both; a mixed map tells it which is which, and that
    is all the map does.
    """

    where: Tensor
    deviations: tuple[float, float] = (1.5, 0.3)  # of objects and background

    def pictures(self, generator: torch.Generator) -> Tensor:
        shape = (len(self.where), CHANNELS, SIZE, SIZE)
        return torch.where(self.where, *self.deviations) * torch.randn(shape, generator=generator)

    def __call__(self, x: Tensor, time: PixelTime) -> Tensor:
        sigma = time.sigma_map()
        one, two = (d**2 / (d**2 + sigma**2) for d in self.deviations)
        if not time.uniform:
            return torch.where(time.index[:, None] == 1, one, two) * x
        share = float(self.where.float().mean())
        squares = x.square().sum(1, keepdim=True)
        odds = [
            (part / (d**2 + sigma**2) ** (CHANNELS / 2)) * (-squares / 2 / (d**2 + sigma**2)).exp()
            for part, d in zip((share, 1 - share), self.deviations)
        ]
        chance = odds[0] / (odds[0] + odds[1])
        return (chance * one + (1 - chance) * two) * x


@dataclass
class Pooled(Apart):
    """Independent pixels and a denoiser that takes the picture's mean noise power for a pixel's."""

    deviations: tuple[float, float] = (1.0, 1.0)

    def __call__(self, x: Tensor, time: PixelTime) -> Tensor:
        power = time.sigma_map().square().mean((2, 3), keepdim=True)
        return x / (1 + power)
