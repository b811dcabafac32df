"""Noise levels at whole and fractional clocks of one run."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from asyndm.core.parametrisation import Parametrisation, wide_float


class SigmaScale:
    """Noise levels at whole and fractional clocks of one run.

    At whole clocks the host's entry, exactly. Between them the interpolation is linear in the
    continuous model timestep (for flow models: in sigma itself), then clamped between the
    neighbours, because a host's list need not round-trip through our table.

    Args:
        sigmas: the host's list, [calls + 1]: a noise level a call, falling, then a last entry
            (mostly 0). A list that starts in mid-schedule (img2img, hires) is the whole clock.
        parametrisation: its table of timesteps.

    Raises:
        ValueError: a list that cannot be sampled.
    """

    def __init__(self, sigmas: Tensor | Sequence[float], parametrisation: Parametrisation) -> None:
        levels = torch.as_tensor(sigmas).detach().to("cpu", torch.float64)
        if levels.ndim != 1 or len(levels) < 2:
            raise ValueError("sigmas: a list of at least two noise levels is needed.")
        calls = levels[:-1]
        if not bool(torch.isfinite(levels).all() and (calls > 0).all() and levels[-1] >= 0):
            raise ValueError(
                "sigmas: noise levels must be finite and positive (the last may be 0)."
            )
        if not bool((levels.diff() <= 0).all()):
            raise ValueError("sigmas: noise levels must fall from call to call.")
        self.parametrisation = parametrisation
        self.sigmas: tuple[float, ...] = tuple(levels.tolist())
        self.intervals = len(levels) - 2
        timesteps = parametrisation.timestep(calls)
        # One virtual entry before the first, at clock -1, where origin="paper" starts from.
        gap = timesteps[:1] - timesteps[1:2] if self.intervals else torch.zeros(1)
        before = parametrisation.sigma(timesteps[:1] + gap)
        before = before.clamp(max=parametrisation.sigma_limit).maximum(calls[:1])
        self._levels = torch.cat([before, calls])
        self._timesteps = parametrisation.timestep(self._levels)
        self._tables: dict[torch.device, tuple[Tensor, Tensor]] = {}

    def at(self, clock: Tensor) -> Tensor:
        """Noise levels at ``clock`` (any shape, within [-1, intervals]), in the clock's device.

        Returns:
            Same shape, float64 where the device has it.
        """
        levels, timesteps = self._on(clock.device)
        place = clock.to(levels.dtype) + 1  # the tables start at clock -1
        low = place.floor().long().clamp(0, len(levels) - 1)
        high = (low + 1).clamp(max=len(levels) - 1)
        part = place - low
        between = self.parametrisation.sigma(timesteps[low].lerp(timesteps[high], part))
        between = between.minimum(levels[low]).maximum(levels[high])
        return torch.where(part == 0, levels[low], between)

    def _on(self, device: torch.device) -> tuple[Tensor, Tensor]:
        if device not in self._tables:
            dtype = wide_float(device)
            self._tables[device] = (
                self._levels.to(device, dtype),
                self._timesteps.to(device, dtype),
            )
        return self._tables[device]
