"""Small models and mask histories for the tests of the core."""

from __future__ import annotations

import torch
from torch import Tensor

from asyndm.core.masks import CallableMasks
from asyndm.core.parametrisation import (
    EpsParametrisation,
    FlowParametrisation,
    VParametrisation,
    align,
)
from asyndm.core.run import Director


def alphas_cumprod(count: int = 1000) -> Tensor:
    """Stable Diffusion's schedule (scaled linear), [count] float64."""
    betas = torch.linspace(0.00085**0.5, 0.012**0.5, count, dtype=torch.float64) ** 2
    return (1 - betas).cumprod(0)


PARAMETRISATIONS = {
    "eps": EpsParametrisation(alphas_cumprod()),
    "v": VParametrisation(alphas_cumprod()),
    "flow": FlowParametrisation(shift=3.0),
}


class ToyDenoiser:
    """A denoiser with a network of a few fixed weights: it depends on x, its neighbours and t.

    Given a director it reads the map of noise levels as a hooked network would; else the scalar.
    """

    def __init__(self, parametrisation, director: Director | None = None) -> None:
        self.parametrisation, self.director = parametrisation, director
        generator = torch.Generator().manual_seed(7)
        self.weight = torch.randn(4, 4, 3, 3, generator=generator) * 0.2
        self.seen: list = []  # the pixel time of each call

    def network(self, x: Tensor, timestep: Tensor) -> Tensor:
        mixed = torch.nn.functional.conv2d(x, self.weight, padding=1)
        return mixed.tanh() + 0.3 * x + (timestep.float() / 300).cos() * 0.2

    def __call__(self, x: Tensor, sigma: Tensor) -> Tensor:
        p = self.parametrisation
        if self.director is not None:
            time = self.director.call.pixel_time
            assert torch.allclose(self.director.call.timestep_table, p.timestep(time.sigma_table))
            self.seen.append(time)
            sigma = time.sigma_map()
        sigma = align(sigma, x)
        return p.denoised(x, self.network(x * p.c_in(sigma), p.timestep(sigma)), sigma)


def random_masks(seed: int, curvatures, grid=(4, 4), soft: bool = False, batch: int = 1):
    """A source of other masks in every step, a function of the seed and the step alone."""

    def masks(i: int, denoised: Tensor) -> Tensor:
        generator = torch.Generator().manual_seed(seed * 1000 + i)
        field = torch.rand(batch, len(curvatures), *grid, generator=generator)
        return field if soft else field > 0.5

    return CallableMasks(masks, curvatures)


def no_masks(curvatures, grid=(4, 4), batch: int = 1) -> CallableMasks:
    """M = 0 in every step."""
    nothing = torch.zeros(batch, len(curvatures), *grid, dtype=torch.bool)
    return CallableMasks(lambda i, denoised: nothing, curvatures)
