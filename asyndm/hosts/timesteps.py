"""The hosts' timestep samplers: which noise levels their own functions would go through."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from modules import shared
from torch import Tensor

from asyndm.core.rules.unipc import VARIANTS
from asyndm.core.settings import SettingsError
from asyndm.hosts.calls import Grid, TimestepCall, noise_levels, table_of


def timestep_call(
    rule: str, twin: Callable, model: Any, x: Tensor, extra_args: Any, callback: Any, disable: Any,
    **options: Any,
) -> TimestepCall:  # fmt: skip
    """A call of ``twin``, with the options the host hands it."""
    grid = {"ddim": _ddim, "unipc": partial(_unipc, inspect.getmodule(twin))}[rule]
    return TimestepCall(
        rule, twin, model, x, partial(grid, model, **options), extra_args, callback, disable,
        options,
    )  # fmt: skip


def _ddim(denoiser: Any, timesteps: Tensor, eta: float = 0.0) -> Grid:
    """From the last timestep down to the first; that one is where the last call leads to."""
    rows = timesteps.detach().cpu().long().flip(0)
    return Grid(noise_levels(table_of(denoiser)[rows]), rows[:-1].tolist(), {"eta": eta})


def _unipc(module: Any, denoiser: Any, timesteps: Tensor, is_img2img: bool = False) -> Grid:
    """As many calls as timesteps, on times that the host's own UniPC spaces by its settings.

    Raises:
        SettingsError: a setting without a form for every pixel's own noise levels.
    """
    opts = shared.opts
    if opts.uni_pc_variant not in VARIANTS:
        raise SettingsError(
            f"UniPC variant {opts.uni_pc_variant!r} (in the WebUI's settings) has no asynchronous "
            f"form; choose {' or '.join(VARIANTS)}."
        )
    if opts.uni_pc_order > 3:
        raise SettingsError(
            f"UniPC order {opts.uni_pc_order} (in the WebUI's settings) has no asynchronous form; "
            "choose 1, 2 or 3."
        )
    alphas = table_of(denoiser)
    schedule = module.uni_pc.NoiseScheduleVP("discrete", alphas_cumprod=alphas.float())
    solver = module.uni_pc.UniPC(None, schedule, predict_x0=True, variant=opts.uni_pc_variant)
    first = float(timesteps[-1] / 1000 + 1 / 1000) if is_img2img else schedule.T
    times = solver.get_time_steps(
        opts.uni_pc_skip_type, first, 1.0 / schedule.total_N, len(timesteps), torch.device("cpu")
    )
    asked = (times[:-1] - 1.0 / schedule.total_N) * 1000.0
    options = {
        "variant": opts.uni_pc_variant,
        "order": opts.uni_pc_order,
        "lower_order_final": opts.uni_pc_lower_order_final,
    }
    return Grid(schedule.marginal_lambda(times).neg().exp(), asked.tolist(), options)
