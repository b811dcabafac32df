"""Lists of noise levels for a run, as the hosts make them: every call's sigma, then the last entry.

Sources: "uniform", "karras" and "exponential" as in k-diffusion; "leading" and "trailing" are the
spacings of Lin et al. 2023 (arXiv 2305.08891, table 2; the AsynDM authors use "leading": 981 ... 1
at 50 steps); "kl_optimal" is Sabour et al. 2024 (arXiv 2404.14507, theorem 3.1).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from asyndm.core.parametrisation import Parametrisation
from asyndm.core.settings import SettingsError, check_whole

SCHEDULES = ("uniform", "leading", "trailing", "karras", "exponential", "kl_optimal")
KARRAS_RHO = 7.0


def make_sigmas(name: str, steps: int, parametrisation: Parametrisation) -> Tensor:
    """Noise levels for ``steps`` network calls.

    Args:
        name: one of :data:`SCHEDULES`.
        steps: network calls, at least 1.
        parametrisation: its table of trained noise levels gives the range.

    Returns:
        [steps + 1] float32 on the CPU, falling; the last entry is 0, except for "kl_optimal", which
        ends at the lowest trained noise level.

    Raises:
        SettingsError: unknown name, or a number of steps that cannot be used.
    """
    table = parametrisation.sigmas
    steps = check_whole("steps", steps, 1, len(table))
    low, high = float(table[0]), float(table[-1])
    ramp = torch.linspace(0, 1, steps, dtype=torch.float64)
    if name == "kl_optimal":
        ramp = torch.linspace(0, 1, steps + 1, dtype=torch.float64)
        return (math.atan(high) + ramp * (math.atan(low) - math.atan(high))).tan().float()
    if name == "uniform":
        sigmas = _at_row(table, (len(table) - 1) * (1 - ramp))
    elif name == "leading":
        rows = torch.arange(steps, dtype=torch.float64).flip(0) * (len(table) // steps)
        sigmas = _at_row(table, (rows + 1).clamp(max=len(table) - 1))
    elif name == "trailing":
        rows = torch.arange(steps, 0, -1, dtype=torch.float64) * (len(table) / steps)
        sigmas = _at_row(table, rows.round() - 1)
    elif name == "karras":
        root_low, root_high = low ** (1 / KARRAS_RHO), high ** (1 / KARRAS_RHO)
        sigmas = (root_high + ramp * (root_low - root_high)) ** KARRAS_RHO
    elif name == "exponential":
        sigmas = (math.log(high) + ramp * (math.log(low) - math.log(high))).exp()
    else:
        raise SettingsError(f"schedule: {name!r} is unknown; choose one of {', '.join(SCHEDULES)}.")
    return torch.cat([sigmas.float(), torch.zeros(1)])


def ddim_sigmas(steps: int, parametrisation: Parametrisation) -> Tensor:
    """The noise levels of DDIM's own timesteps (Song et al. 2020, arXiv 2010.02502), as in hosts.

    Timesteps 1, 1 + T // steps, ... from the top; the lowest is where the last call leads to, so
    that there are as many levels as the host's DDIM has timesteps, and one call less.

    Raises:
        SettingsError: a number of steps that cannot be used.
    """
    table = parametrisation.sigmas
    steps = check_whole("steps", steps, 2, len(table))
    rows = torch.arange(0, len(table), len(table) // steps) + 1
    return table[rows.clamp(max=len(table) - 1).flip(0)].float()


def _at_row(table: Tensor, rows: Tensor) -> Tensor:
    """The table at fractional rows, interpolated in log sigma as k-diffusion does."""
    low = rows.floor().long().clamp(max=len(table) - 2)
    logs = table.log()
    return (logs[low] + (rows - low) * (logs[low + 1] - logs[low])).exp()
