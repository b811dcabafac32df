"""Stands for ``modules/sd_samplers_timesteps_impl.py``: latents sqrt(a) x0 + sqrt(1-a) noise.

Written from the papers: DDIM is equation 12 of Song et al. 2020, UniPC what the rules' tests hold
beside diffusers'.
"""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import k_diffusion.sampling
import rule_oracles
import torch
from torch import Tensor

from modules.shared import opts


def ddim(model, x, timesteps, extra_args=None, callback=None, disable=None, eta=0.0):
    table = model.inner_model.inner_model.alphas_cumprod.double()
    for i, (now, after) in enumerate(zip(timesteps.flip(0)[:-1], timesteps.flip(0)[1:])):
        a, b = table[now].item(), table[after].item()
        noise = model(x, now * x.new_ones(len(x)), **(extra_args or {}))
        up = eta * ((1 - b) / (1 - a) * (1 - a / b)) ** 0.5
        clean = (x - (1 - a) ** 0.5 * noise) / a**0.5
        fresh = k_diffusion.sampling.torch.randn_like(x)
        x = b**0.5 * clean + (1 - b - up**2) ** 0.5 * noise + up * fresh
        if callback is not None:
            callback({"x": x, "i": i, "sigma": 0, "sigma_hat": 0, "denoised": clean})
    return x


class NoiseScheduleVP:
    """Times (i + 1) / N of a table of N; log alpha is linear between them."""

    T = 1.0

    def __init__(self, schedule: str, alphas_cumprod: Tensor) -> None:
        self.total_N = len(alphas_cumprod)
        self._logs = alphas_cumprod.log() / 2
        self._times = torch.arange(1, self.total_N + 1) / self.total_N

    def _log_alpha(self, t: Tensor) -> Tensor:
        low = (torch.searchsorted(self._times, t.contiguous()) - 1).clamp(0, self.total_N - 2)
        part = (t - self._times[low]) * self.total_N
        return self._logs[low].lerp(self._logs[low + 1], part)

    def marginal_lambda(self, t: Tensor) -> Tensor:
        log_alpha = self._log_alpha(t)
        return log_alpha - torch.expm1(2 * log_alpha).neg().log() / 2


class UniPC:
    """The spacings of the host's."""

    def __init__(self, model: Any, schedule: NoiseScheduleVP, predict_x0: bool, variant: str):
        self.schedule = schedule

    def get_time_steps(self, skip_type: str, t_T: float, t_0: float, N: int, device: Any) -> Tensor:
        power = {"time_uniform": 1, "time_quadratic": 2}[skip_type]
        return torch.linspace(t_T ** (1 / power), t_0 ** (1 / power), N + 1) ** power


uni_pc = SimpleNamespace(NoiseScheduleVP=NoiseScheduleVP, UniPC=UniPC)


def unipc(model, x, timesteps, extra_args=None, callback=None, disable=None, is_img2img=False):
    schedule = NoiseScheduleVP("discrete", model.inner_model.inner_model.alphas_cumprod)
    first = float(timesteps[-1] / 1000 + 1 / 1000) if is_img2img else schedule.T
    solver = UniPC(None, schedule, True, opts.uni_pc_variant)
    times = solver.get_time_steps(opts.uni_pc_skip_type, first, 0.001, len(timesteps), x.device)
    sigmas = schedule.marginal_lambda(times).neg().exp()
    calls = iter(range(len(timesteps)))

    def denoiser(x: Tensor, sigma: Tensor) -> Tensor:
        i = next(calls)
        t, s = (times[i] - 1 / schedule.total_N) * 1000, sigmas[i]
        noise = model(x / (1 + s**2).sqrt(), t * x.new_ones(len(x)), **(extra_args or {}))
        clean = x - s * noise
        if callback is not None:
            callback({"x": x, "i": i, "sigma": 0, "sigma_hat": 0, "denoised": clean})
        return clean

    options = {"variant": opts.uni_pc_variant, "order": opts.uni_pc_order}
    x = x * (1 + sigmas[0] ** 2).sqrt()
    off = rule_oracles.Bounds(on=False)
    x = rule_oracles.unipc(denoiser, x, sigmas, sigmas.tolist(), off, **options)
    return x / (1 + sigmas[-1] ** 2).sqrt()
