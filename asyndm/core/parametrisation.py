"""What a network predicts, and at which timestep: noise (eps), velocity (v) or rectified flow.

The samplers see noisy latents ``x`` and denoised latents ``D`` alone. A parametrisation turns
one into the other at noise levels ``sigma`` which may be a scalar, one number an image ``[B]``, or
one number a pixel ``[B, 1, H, W]``.

Source: k-diffusion's denoisers (Karras et al. 2022, arXiv 2206.00364, table 1) for eps and v;
Esser et al. 2024 (arXiv 2403.03206) for rectified flow. The table is continued beyond its two
ends because a host's noise levels may lie outside it, where k-diffusion clamps.
"""

from __future__ import annotations

import math
from typing import Protocol

import torch
from torch import Tensor


class Parametrisation(Protocol):
    """How latents, network output, noise level and timestep belong together."""

    sigmas: Tensor  # [T] float64 on the CPU, ascending: the noise level of every trained timestep
    sigma_limit: float  # no noise level lies above it (1 for flow models)
    flow: bool  # x = (1 - sigma) * x0 + sigma * noise; otherwise x = x0 + sigma * noise
    interpolates_sigma: bool  # the timestep is linear in sigma

    def c_in(self, sigma: Tensor) -> Tensor:
        """The factor on x before it enters the network."""

    def denoised(self, x: Tensor, output: Tensor, sigma: Tensor) -> Tensor:
        """The denoised prediction D from the network's output at ``sigma``."""

    def output(self, x: Tensor, denoised: Tensor, sigma: Tensor) -> Tensor:
        """The inverse of :meth:`denoised`: what a network would have to say for that D."""

    def timestep(self, sigma: Tensor) -> Tensor:
        """The continuous model timestep of a noise level, float64 where the device has it."""

    def sigma(self, timestep: Tensor) -> Tensor:
        """The inverse of :meth:`timestep`."""


def wide_float(device: torch.device) -> torch.dtype:
    """float64 where the device computes it, else float32 (Apple's and DirectML's do not)."""
    return torch.float64 if device.type in ("cpu", "cuda") else torch.float32


def align(sigma: Tensor, x: Tensor) -> Tensor:
    """``sigma`` (scalar, [B] or [B, 1, H, W]) with the dimensions it needs to broadcast over x."""
    return sigma.reshape(*sigma.shape, *(1,) * (x.ndim - sigma.ndim)) if sigma.ndim == 1 else sigma


class _VarianceExploding:
    """The table shared by eps and v models: x = x0 + sigma * noise, log sigma over timesteps.

    Args:
        alphas_cumprod: [T], the product of the alphas at every trained timestep, falling.

    Raises:
        ValueError: fewer than two timesteps, or values that do not fall strictly within (0, 1).
    """

    sigma_limit = math.inf
    flow = False
    interpolates_sigma = False

    def __init__(self, alphas_cumprod: Tensor) -> None:
        alphas = torch.as_tensor(alphas_cumprod).detach().to("cpu", torch.float64)
        if alphas.ndim != 1 or len(alphas) < 2:
            raise ValueError("alphas_cumprod: a table of at least two timesteps is needed.")
        if not bool(((alphas > 0) & (alphas < 1)).all() and (alphas.diff() < 0).all()):
            raise ValueError("alphas_cumprod: the values must fall strictly between 1 and 0.")
        self.sigmas = ((1 - alphas) / alphas).sqrt()
        self._tables: dict[torch.device, Tensor] = {}

    def _log_sigmas(self, device: torch.device) -> Tensor:
        if device not in self._tables:
            self._tables[device] = self.sigmas.log().to(device, wide_float(device))
        return self._tables[device]

    def c_in(self, sigma: Tensor) -> Tensor:
        return (sigma**2 + 1).rsqrt()

    def timestep(self, sigma: Tensor) -> Tensor:
        table = self._log_sigmas(sigma.device)
        tiny = torch.finfo(torch.float32).tiny  # keeps the timestep of sigma = 0 finite
        log_sigma = sigma.to(table.dtype).clamp(min=tiny).log()
        low = (torch.searchsorted(table, log_sigma, right=True) - 1).clamp(0, len(table) - 2)
        # No clamp of the weight: the two end segments go on as straight lines.
        return low + (log_sigma - table[low]) / (table[low + 1] - table[low])

    def sigma(self, timestep: Tensor) -> Tensor:
        table = self._log_sigmas(timestep.device)
        timestep = timestep.to(table.dtype)
        low = timestep.floor().long().clamp(0, len(table) - 2)
        return (table[low] + (timestep - low) * (table[low + 1] - table[low])).exp()


class EpsParametrisation(_VarianceExploding):
    """Networks that predict the noise (Stable Diffusion 1.x, SDXL): D = x - sigma * eps."""

    def denoised(self, x: Tensor, output: Tensor, sigma: Tensor) -> Tensor:
        return x - align(sigma, x) * output

    def output(self, x: Tensor, denoised: Tensor, sigma: Tensor) -> Tensor:
        return (x - denoised) / align(sigma, x)


class LcmParametrisation(EpsParametrisation):
    """Latent consistency models (Luo et al. 2023, arXiv 2310.04378) that predict the noise.

    They were trained at a few rounded timesteps, which the network is to be given
    (``Director(timestep=parametrisation.rounded)``), and D is mixed with x by boundary scalings,
    c_skip and c_out of ten times the timestep, so that it is x itself where no noise is left.

    Args:
        alphas_cumprod: as for the model it was distilled from.
        rounds: number of its timesteps.
    """

    SIGMA_DATA = 0.5

    def __init__(self, alphas_cumprod: Tensor, rounds: int = 50) -> None:
        super().__init__(alphas_cumprod)
        self._skip = len(self.sigmas) // rounds
        self._rows = torch.arange(rounds) * self._skip + self._skip - 1
        logs = self.sigmas[self._rows].log()
        self._borders = (logs[1:] + logs[:-1]) / 2

    def rounded(self, sigma: Tensor) -> Tensor:
        """The trained timestep nearest in log sigma, same shape."""
        borders = self._borders.to(sigma.device, wide_float(sigma.device))
        row = torch.searchsorted(borders, sigma.to(borders.dtype).log().contiguous())
        return row * self._skip + self._skip - 1

    def denoised(self, x: Tensor, output: Tensor, sigma: Tensor) -> Tensor:
        scaled = 10.0 * align(self.rounded(sigma).to(x.dtype), x)
        total = scaled**2 + self.SIGMA_DATA**2
        clean = super().denoised(x, output, sigma)
        return scaled * total.rsqrt() * clean + self.SIGMA_DATA**2 / total * x

    def output(self, x: Tensor, denoised: Tensor, sigma: Tensor) -> Tensor:
        scaled = 10.0 * align(self.rounded(sigma).to(x.dtype), x)
        total = scaled**2 + self.SIGMA_DATA**2
        clean = (denoised - self.SIGMA_DATA**2 / total * x) * total.sqrt() / scaled
        return super().output(x, clean, sigma)


class VParametrisation(_VarianceExploding):
    """Networks that predict v (Stable Diffusion 2.1 at 768): D = c_skip * x + c_out * v."""

    def denoised(self, x: Tensor, output: Tensor, sigma: Tensor) -> Tensor:
        sigma = align(sigma, x)
        return x / (sigma**2 + 1) - output * sigma * (sigma**2 + 1).rsqrt()

    def output(self, x: Tensor, denoised: Tensor, sigma: Tensor) -> Tensor:
        sigma = align(sigma, x)
        return (x / (sigma**2 + 1) - denoised) * (sigma**2 + 1).sqrt() / sigma


class FlowParametrisation:
    """Rectified-flow networks (SD3, Flux): x = (1 - sigma) * x0 + sigma * noise, D = x - sigma * v.

    Args:
        shift: the timestep shift of the model (SD3: 3), which only bends :attr:`sigmas`.
        multiplier: timestep = multiplier * sigma (SD3: 1000; Flux in some hosts: 1).
        steps: length of the table of trained noise levels.
        sigmas: that table, ascending, where a host has its own; the shift is in it.

    Raises:
        ValueError: an argument that is not positive, or fewer than two steps.
    """

    sigma_limit = 1.0
    flow = True
    interpolates_sigma = True

    def __init__(
        self,
        shift: float = 1.0,
        multiplier: float = 1000.0,
        steps: int = 1000,
        sigmas: Tensor | None = None,
    ) -> None:
        if not (shift > 0 and multiplier > 0 and steps >= 2):
            raise ValueError("shift and multiplier must be positive, and steps at least 2.")
        self.multiplier = float(multiplier)
        even = torch.arange(1, steps + 1, dtype=torch.float64) / steps
        self.sigmas = shift * even / (1 + (shift - 1) * even)
        if sigmas is not None:
            self.sigmas = sigmas.detach().to("cpu", torch.float64)

    def c_in(self, sigma: Tensor) -> Tensor:
        return torch.ones_like(sigma)

    def denoised(self, x: Tensor, output: Tensor, sigma: Tensor) -> Tensor:
        return x - align(sigma, x) * output

    def output(self, x: Tensor, denoised: Tensor, sigma: Tensor) -> Tensor:
        return (x - denoised) / align(sigma, x)

    def timestep(self, sigma: Tensor) -> Tensor:
        return sigma.to(wide_float(sigma.device)) * self.multiplier

    def sigma(self, timestep: Tensor) -> Tensor:
        return timestep.to(wide_float(timestep.device)) / self.multiplier
