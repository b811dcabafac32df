"""The sampling loop, in the form of a k-diffusion sampler."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from asyndm.core.run import Director
from asyndm.core.stepping import make_rule

NoiseSampler = Callable[[Any, Any], Tensor]


class NoiseSamplerMissing(TypeError):
    """The rule draws noise and nobody said from which generator."""


@torch.no_grad()
def sample_asyndm(
    model: Callable[..., Tensor],
    x: Tensor,
    sigmas: Tensor,
    extra_args: dict[str, Any] | None = None,
    callback: Callable[[dict[str, Any]], Any] | None = None,
    disable: bool | None = None,
    *,
    director: Director,
    rule: str = "ddpm",
    eta: float = 1.0,
    s_noise: float = 1.0,
    noise_sampler: NoiseSampler | None = None,
) -> Tensor:
    """Asynchronous denoising (arXiv 2510.04504): every pixel at a noise level of its own.

    Args:
        model: any k-diffusion denoiser: (x, sigma [B], **extra_args) -> D. It receives the host's
            scalar; the map travels in ``director.call``.
        x: noisy latents [B, C, H, W] at ``sigmas[0]``.
        sigmas: [calls + 1] noise levels, falling, mostly with a 0 at the end.
        callback: called each step with x, i, sigma, sigma_hat and denoised, as in k-diffusion.
        disable: no progress bar.
        director: moves the clocks; left in a clean state after an exception, too.
        rule: "ddpm" (twin: Euler ancestral), "euler" or "dpmpp_2m".
        eta, s_noise: ancestral noise of "ddpm".
        noise_sampler: (sigma, sigma_next) -> noise like x; called exactly when the twin calls it.
            There is no default: noise from the global generator would make an image depend on
            the rest of its batch. See :func:`seeded_noise`.

    Returns:
        The latents at the last entry of ``sigmas``.

    Raises:
        NoiseSamplerMissing: the rule draws noise and no ``noise_sampler`` was given.
        ValueError: an unknown rule, or noise levels that cannot be sampled.
    """
    stepper = make_rule(rule, eta=eta, s_noise=s_noise, flow=director.parametrisation.flow)
    if stepper.draws_noise and noise_sampler is None:
        raise NoiseSamplerMissing(
            f"The rule {rule!r} draws noise: pass noise_sampler=, e.g. seeded_noise(x, seeds)."
        )
    extra_args = {} if extra_args is None else extra_args
    s_in = x.new_ones([x.shape[0]])
    dtype, wide = x.dtype, torch.promote_types(x.dtype, torch.float32)
    with director.run(x, sigmas) as time:
        host = director.clock.scale.sigmas
        x = director.enter(x)
        for i in _progress(len(host) - 1, disable):
            denoised = model(x, sigmas[i] * s_in, **extra_args)
            if callback is not None:
                callback(
                    {
                        "x": x,
                        "i": i,
                        "sigma": sigmas[i],
                        "sigma_hat": sigmas[i],
                        "denoised": denoised,
                    }
                )
            sigma = time.sigma_map()
            time = director.advance(i, denoised)
            draw = None
            if noise_sampler is not None:
                draw = _bind(noise_sampler, sigmas[i], sigmas[i + 1])
            x = stepper.step(
                x.to(wide), denoised.to(wide), sigma, time.sigma_map(), host[i], host[i + 1], draw
            ).to(dtype)
    return x


def seeded_noise(x: Tensor, seeds: Sequence[int]) -> NoiseSampler:
    """A noise sampler with one CPU generator an image, so that no image depends on its batch.

    Args:
        x: [B, C, H, W] gives the shape, device and dtype.
        seeds: [B].

    Raises:
        ValueError: another number of seeds than images.
    """
    if len(seeds) != x.shape[0]:
        raise ValueError(f"{len(seeds)} seeds do not fit {x.shape[0]} images.")
    generators = [torch.Generator().manual_seed(int(seed)) for seed in seeds]

    def draw(sigma: Any, sigma_next: Any) -> Tensor:
        noise = [torch.randn(x.shape[1:], generator=generator) for generator in generators]
        return torch.stack(noise).to(x.device, x.dtype, non_blocking=True)

    return draw


def _bind(noise_sampler: NoiseSampler, sigma: Tensor, sigma_next: Tensor) -> Callable[[], Tensor]:
    return lambda: noise_sampler(sigma, sigma_next)


def _progress(steps: int, disable: bool | None):
    """k-diffusion's progress bar where the host carries tqdm, which all known hosts do."""
    try:
        from tqdm.auto import trange
    except ImportError:
        return range(steps)
    return trange(steps, disable=disable)
