"""What a host calls a sampler's function with: noise levels, or timesteps.

k-diffusion's samplers take noise levels and latents x0 + sigma * noise. The hosts' *timestep*
samplers (DDIM, UniPC) take timesteps and latents of constant variance, sqrt(a) x0 + sqrt(1-a)
noise, and their CFG denoiser answers with the noise. Both are told apart here, so that a run knows
noise levels alone. Imports nothing of a host.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from asyndm.core.rules import REGISTRY
from asyndm.core.settings import SettingsError
from asyndm.hosts.frames import flat, like

_HALF_LOG_SNR = "sigma_to_half_log_snr"  # ComfyUI's function


@dataclass(frozen=True)
class SamplingCall:
    """A call with noise levels.

    Attributes:
        rule: of the update, see :mod:`asyndm.core.rules`.
        twin: the host's own function of that rule.
        denoiser: the host's CFG denoiser.
        given: the latents it starts from, [B, C, H, W], or [B, C, 1, H, W] as the host has them.
        listed: the host's whole list of noise levels, [calls + 1].
        options: what else the host hands in, by the twin's names: eta, s_churn, noise_sampler, ...
    """

    rule: str
    twin: Callable[..., Tensor]
    denoiser: Any
    given: Tensor
    listed: Tensor
    extra_args: dict[str, Any] | None
    callback: Callable[[dict], None] | None
    disable: bool | None
    options: dict[str, Any]

    shows_clean = False  # whether the network is shown what inpainting keeps without noise

    @property
    def knows_flow(self) -> bool:
        """Whether the rule and its twin have a form for rectified flow.

        ComfyUI's SDE samplers have one, by half log-SNR; k-diffusion's would take flow's latents
        for x0 + sigma * noise.
        """
        entry = REGISTRY[self.rule]
        twins_own = not entry.by_half_log_snr or _HALF_LOG_SNR in names_of(self.twin)
        return entry.flow is not None and twins_own

    @cached_property
    def x(self) -> Tensor:
        """The latents as a run knows them, [B, C, H, W]."""
        return flat(self.given)

    @cached_property
    def sigmas(self) -> Tensor:
        """The list up to its first 0: without noise a step changes nothing.

        Forge Neo's "Automatic" ends in two of them where the model is a rectified flow.
        """
        clear = (self.listed[:-1] == 0).nonzero()
        return self.listed[: int(clear[0]) + 1] if len(clear) else self.listed

    def run_twin(self, callback: Callable[[dict], None] | None = None) -> Tensor:
        """The same call of the host's own sampler."""
        return self.twin(
            self.denoiser, self.given, self.listed, self.extra_args, callback or self.callback,
            self.disable, **self.options,
        )  # fmt: skip

    def level(self, i: int) -> float | None:
        """The noise level the CFG denoiser scales call i by; None where it scales nothing."""
        return None

    def ask(self, i: int, x: Tensor, sigma: Tensor, **extra_args: Any) -> Tensor:
        """D of the host's CFG denoiser in call i."""
        return flat(self.denoiser(like(x, self.given), sigma, **extra_args))

    def told(self, state: dict) -> dict:
        """What the host's callback is told of a step."""
        if self.given.ndim != 5:
            return state
        return {
            key: like(value, self.given) if isinstance(value, Tensor) else value
            for key, value in state.items()
        }

    def leave(self, x: Tensor) -> Tensor:
        """The result as the host expects it."""
        return like(x, self.given)


@dataclass(frozen=True)
class Grid:
    """The noise levels of a timestep sampler.

    Attributes:
        sigmas: [calls + 1], falling; the last is where the last call leads to.
        asked: [calls], the timesteps the host calls its network with.
        options: of the rule.
    """

    sigmas: Tensor
    asked: Sequence[float]
    options: dict[str, Any]


@dataclass(frozen=True)
class TimestepCall:
    """A call with timesteps; the rest as in :class:`SamplingCall`.

    Attributes:
        latents: as the host scales them.
        grid: makes the noise levels, asked for once, when a run begins.
        twin_options: what the host hands its own function: timesteps, eta, is_img2img.
    """

    rule: str
    twin: Callable[..., Tensor]
    denoiser: Any
    latents: Tensor
    grid: Callable[[], Grid]
    extra_args: dict[str, Any] | None
    callback: Callable[[dict], None] | None
    disable: bool | None
    twin_options: dict[str, Any] = field(default_factory=dict)

    knows_flow = False  # their latents are of constant variance

    @cached_property
    def _grid(self) -> Grid:
        return self.grid()

    @property
    def options(self) -> dict[str, Any]:
        return self._grid.options

    @cached_property
    def sigmas(self) -> Tensor:
        sigmas = self._grid.sigmas
        if len(sigmas) < 2 or not bool((sigmas.diff() <= 0).all()):
            raise SettingsError("steps: this sampler's timesteps leave nothing to do here.")
        return sigmas.to(self.latents.device, torch.float32)

    @cached_property
    def x(self) -> Tensor:
        return self.latents * (1 + float(self._grid.sigmas[0]) ** 2) ** 0.5

    @cached_property
    def _alphas(self) -> Tensor:
        return table_of(self.denoiser)

    @cached_property
    def _levels(self) -> list[float]:
        """Forge's denoiser takes the nearest of its table, A1111's scales nothing itself."""
        levels = self._grid.sigmas[:-1].double()
        if getattr(self.denoiser, "classic_ddim_eps_estimation", False):
            alphas = self._alphas
            rows = torch.tensor(list(self._grid.asked)).float().round().long()
            levels = noise_levels(alphas)[rows.clamp(0, len(alphas) - 1)]
        return levels.tolist()

    @property
    def shows_clean(self) -> bool:
        own = getattr(self.denoiser, "classic_ddim_eps_estimation", False)
        return not own and getattr(self.denoiser, "mask_before_denoising", False)

    def run_twin(self, callback: Callable[[dict], None] | None = None) -> Tensor:
        """The same call of the host's own sampler."""
        return self.twin(
            self.denoiser, self.latents, extra_args=self.extra_args,
            callback=callback or self.callback, disable=self.disable, **self.twin_options,
        )  # fmt: skip

    def level(self, i: int) -> float | None:
        return self._levels[i]

    def ask(self, i: int, x: Tensor, sigma: Tensor, **extra_args: Any) -> Tensor:
        """D from the noise that the denoiser answers with."""
        level = self._levels[i]
        timestep = torch.full_like(sigma, float(self._grid.asked[i]))
        noise = self.denoiser(x / (1 + level**2) ** 0.5, timestep, **extra_args)
        return (x - level * noise).to(x.dtype)

    def told(self, state: dict) -> dict:
        """What the host's callback is told of a step."""
        return state

    def timesteps(self, sigma: Tensor) -> Tensor:
        """The timesteps of noise levels [R]; exactly the host's where a level is a call's own."""
        between = timesteps_between(sigma, self._alphas)
        asked = torch.tensor(self._grid.asked, dtype=between.dtype)
        asked = asked.to(sigma.device, non_blocking=True)
        away, call = (between[:, None] - asked).abs().min(dim=1)
        return torch.where(away < 2e-3, asked[call], between)

    def leave(self, x: Tensor) -> Tensor:
        return x / (1 + float(self._grid.sigmas[-1]) ** 2) ** 0.5


def names_of(function: Callable) -> tuple[str, ...]:
    """What a function's code names of its module and of other things."""
    code = getattr(inspect.unwrap(function), "__code__", None)
    return code.co_names if code is not None else ()


def table_of(denoiser: Any) -> Tensor:
    """[T] float64 on the CPU: the product of the alphas, where the hosts' own functions read it."""
    return denoiser.inner_model.inner_model.alphas_cumprod.detach().to("cpu", torch.float64)


def noise_levels(alphas: Tensor) -> Tensor:
    """sigma of the product of the alphas."""
    return ((1 - alphas) / alphas).sqrt()


def timesteps_between(sigma: Tensor, alphas: Tensor) -> Tensor:
    """The timesteps UniPC's authors' table has for noise levels: log alpha is linear in between.

    Args:
        sigma: any shape.
        alphas: [T].
    """
    table = alphas.log().neg().to(sigma.device, torch.promote_types(sigma.dtype, torch.float32))
    wanted = torch.log1p(sigma.to(table.dtype) ** 2).contiguous()
    low = (torch.searchsorted(table, wanted, right=True) - 1).clamp(0, len(table) - 2)
    return low + (wanted - table[low]) / (table[low + 1] - table[low])
