"""Stands for reForge's ``ldm_patched/k_diffusion/sampling.py``, functions of ComfyUI's.

What differs from k-diffusion's: the settings are read inside and are no parameters; noise is
torch's own, of the whole batch; a step without churn draws none; the Brownian tree knows ``cpu``.
"""

from __future__ import annotations

import k_diffusion.sampling as k_diffusion
import modules.shared
import torch

SETTINGS = {
    **{"euler_ancestral_og_eta": 1.0, "euler_ancestral_og_s_noise": 1.0},
    **{"heun_og_s_churn": 0.0, "heun_og_s_tmin": 0.0, "heun_og_s_noise": 1.0},
    **{"dpmpp_sde_og_eta": 1.0, "dpmpp_sde_og_s_noise": 1.0, "dpmpp_sde_og_r": 0.5},
    **{"dpmpp_2m_sde_og_eta": 1.0, "dpmpp_2m_sde_og_s_noise": 1.0},
    "dpmpp_2m_sde_og_solver_type": "midpoint",
    "dpm2_ancestral_s_noise": 1.0,
    "dpmpp_2m_mode": "plain",  # stands for DEIS's mode: one that the rule has no option for
}


def default_noise_sampler(x, seed=None):
    return lambda sigma, sigma_next: torch.randn(x.size())


class BrownianTreeNoiseSampler(k_diffusion.BrownianTreeNoiseSampler):
    def __init__(self, x, sigma_min, sigma_max, seed=None, transform=lambda x: x, cpu=False):
        super().__init__(x, sigma_min, sigma_max, seed, transform)


def _tree(x, sigmas):
    return BrownianTreeNoiseSampler(x, sigmas[sigmas > 0].min(), sigmas.max(), cpu=True)


@torch.no_grad()
def sample_euler_ancestral(
    model, x, sigmas, extra_args=None, callback=None, disable=None, noise_sampler=None
):
    return k_diffusion.sample_euler_ancestral(
        model, x, sigmas, extra_args, callback, disable,
        eta=modules.shared.opts.euler_ancestral_og_eta,
        s_noise=modules.shared.opts.euler_ancestral_og_s_noise,
        noise_sampler=noise_sampler or default_noise_sampler(x),
    )  # fmt: skip


@torch.no_grad()
def sample_dpmpp_sde(
    model, x, sigmas, extra_args=None, callback=None, disable=None, noise_sampler=None
):
    return k_diffusion.sample_dpmpp_sde(
        model, x, sigmas, extra_args, callback, disable,
        eta=modules.shared.opts.dpmpp_sde_og_eta,
        s_noise=modules.shared.opts.dpmpp_sde_og_s_noise,
        noise_sampler=noise_sampler or _tree(x, sigmas),
        r=modules.shared.opts.dpmpp_sde_og_r,
    )  # fmt: skip


@torch.no_grad()
def sample_dpmpp_2m_sde(
    model, x, sigmas, extra_args=None, callback=None, disable=None, noise_sampler=None
):
    return k_diffusion.sample_dpmpp_2m_sde(
        model, x, sigmas, extra_args, callback, disable,
        eta=modules.shared.opts.dpmpp_2m_sde_og_eta,
        s_noise=modules.shared.opts.dpmpp_2m_sde_og_s_noise,
        noise_sampler=noise_sampler or _tree(x, sigmas),
        solver_type=modules.shared.opts.dpmpp_2m_sde_og_solver_type,
    )  # fmt: skip


@torch.no_grad()
def sample_dpmpp_2m(model, x, sigmas, extra_args=None, callback=None, disable=None):
    if modules.shared.opts.dpmpp_2m_mode == "first":
        return k_diffusion.sample_euler(model, x, sigmas, extra_args, callback, disable)
    return k_diffusion.sample_dpmpp_2m(model, x, sigmas, extra_args, callback, disable)


@torch.no_grad()
def sample_dpm_2_ancestral(
    model, x, sigmas, extra_args=None, callback=None, disable=None, eta=1.0, s_noise=None,
    noise_sampler=None,
):  # fmt: skip
    return k_diffusion.sample_dpm_2_ancestral(
        model, x, sigmas, extra_args, callback, disable, eta,
        modules.shared.opts.dpm2_ancestral_s_noise if s_noise is None else s_noise,
        noise_sampler or default_noise_sampler(x),
    )  # fmt: skip


@torch.no_grad()
def sample_heun(model, x, sigmas, extra_args=None, callback=None, disable=None):
    """Karras et al. 2022, algorithm 2; noise is drawn where it is thrown in, and nowhere else."""
    churn = modules.shared.opts.heun_og_s_churn
    low = modules.shared.opts.heun_og_s_tmin
    s_noise = modules.shared.opts.heun_og_s_noise
    ones = x.new_ones([len(x)])
    for i, (sigma, after) in enumerate(zip(sigmas, sigmas[1:])):
        gamma = min(churn / (len(sigmas) - 1), 2**0.5 - 1) if churn > 0 and sigma >= low else 0.0
        hat = sigma * (1 + gamma)
        if gamma > 0:
            x = x + torch.randn_like(x) * s_noise * (hat**2 - sigma**2) ** 0.5
        denoised = model(x, hat * ones, **(extra_args or {}))
        if callback is not None:
            callback({"x": x, "i": i, "sigma": sigma, "sigma_hat": hat, "denoised": denoised})
        d = (x - denoised) / hat
        ahead = x + d * (after - hat)
        if after > 0:
            d = (d + (ahead - model(ahead, after * ones, **(extra_args or {}))) / after) / 2
        x = x + d * (after - hat)
    return x


NAMES = {
    "Euler A Comfy": sample_euler_ancestral,
    "DPM++ SDE Comfy": sample_dpmpp_sde,
    "DPM++ 2M Comfy": sample_dpmpp_2m,
    "DPM++ 2M SDE Comfy": sample_dpmpp_2m_sde,
    "DPM2 a": sample_dpm_2_ancestral,  # what the host lists where it takes ComfyUI's functions
    "Heun Comfy": sample_heun,
}
