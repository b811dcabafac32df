"""The sampling loop, in the form of a k-diffusion sampler."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from asyndm.core.passes import Pass
from asyndm.core.rules import make_rule
from asyndm.core.rules.base import Between, Draw, Rule
from asyndm.core.run import Director

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
    rule: str | Rule = "ddpm",
    passes: Pass | None = None,
    uncond: Callable[[], Tensor] | None = None,
    eta: float | None = None,
    s_noise: float | None = None,
    noise_sampler: NoiseSampler | None = None,
    steps: int | None = None,
    **options: Any,
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
        rule: one of :data:`asyndm.core.rules.REGISTRY`, which names their twins ("ddpm": Euler
            ancestral); or a rule made for this run.
        passes: more network calls ahead of a step, as in :mod:`asyndm.guidance.zigzag`.
        uncond: the unconditional D of the last network call, for rules that renoise with it.
        eta, s_noise: of a rule that has them; None = as in its twin.
        options: of the rule, as in its twin: s_churn, s_tmin, s_tmax, solver_type, r, ...
        noise_sampler: (sigma, sigma_next) -> noise like x; called exactly when the twin calls it,
            with the host's two noise levels: unit noise, which each pixel scales by its own share.
            A Brownian tree is asked for the host's intervals alone.
            There is no default: noise from the global generator would make an image depend on
            the rest of its batch. See :func:`seeded_noise`.
        steps: stop after so many of them; None = all.

    Returns:
        The latents at the last entry of ``sigmas``, or where it stopped.

    Raises:
        NoiseSamplerMissing: the rule draws noise and no ``noise_sampler`` was given.
        ValueError: an unknown rule, noise levels that cannot be sampled, or a rule that needs
            ``uncond`` without it.
    """
    stepper = rule
    if not isinstance(rule, Rule):
        flow = director.parametrisation.flow
        stepper = make_rule(rule, eta=eta, s_noise=s_noise, flow=flow, **options)
    if stepper.needs_uncond and uncond is None:
        raise ValueError(f"The rule {type(stepper).__name__} needs uncond=.")
    if stepper.draws_noise and noise_sampler is None:
        raise NoiseSamplerMissing(
            f"The rule {rule!r} draws noise: pass noise_sampler=, e.g. seeded_noise(x, seeds)."
        )
    extra_args = {} if extra_args is None else extra_args
    s_in = x.new_ones([x.shape[0]])
    dtype, wide = x.dtype, torch.promote_types(x.dtype, torch.float32)

    def network(x: Tensor, sigma: Tensor, **changed: Any) -> Tensor:
        return model(x, sigma * s_in, **{**extra_args, **changed})

    with director.run(x, sigmas) as time:
        host = director.clock.scale.sigmas
        stepper.begin(host)
        x = director.enter(x)
        for i in _progress(min(len(host) - 1, steps or len(host)), disable):
            draw = None
            if noise_sampler is not None:
                draw = _bind(noise_sampler, sigmas[i], sigmas[i + 1])
            sigma_hat, gamma = sigmas[i], stepper.churn(host[i])
            if gamma is not None:
                noise, sigma = draw() * stepper.s_noise, time.sigma_map()
                if gamma > 0:
                    time, sigma_hat = director.raise_noise(gamma), sigmas[i] * (gamma + 1)
                    up = (time.sigma_map() ** 2 - sigma**2).sqrt()
                    x = (x.to(wide) + noise * up).to(dtype)
            denoised = network(x, sigma_hat)
            if callback is not None:
                callback(
                    {
                        "x": x,
                        "i": i,
                        "sigma": sigmas[i],
                        "sigma_hat": sigma_hat,
                        "denoised": denoised,
                    }
                )
            now, time = time, director.advance(i, denoised)

            def model_at(inside, between, now=now, ends=(sigma_hat, sigmas[i + 1])):
                with director.inside(now, between):
                    return network(inside.to(dtype), between(*ends)).to(wide)

            if passes is not None:

                def ask(again, scale=None, now=now, at=sigma_hat):
                    more = {} if scale is None else {"cond_scale": scale}
                    with director.again(now):
                        return network(again.to(dtype), at, **more).to(wide)

                x, denoised = passes(
                    i, x.to(wide), denoised.to(wide), now.sigma_map(), time.sigma_map(),
                    host[i + 1], ask,
                )  # fmt: skip
            if stepper.needs_uncond:
                stepper.uncond = uncond().to(wide)
            x = stepper.step(
                x.to(wide), denoised.to(wide), now.sigma_map(), time.sigma_map(),
                host[i], host[i + 1], draw, model_at,
            ).to(dtype)  # fmt: skip
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


def _bind(noise_sampler: NoiseSampler, sigma: Tensor, sigma_next: Tensor) -> Draw:
    def draw(start: Between | None = None, end: Between | None = None) -> Tensor:
        a = sigma if start is None else start(sigma, sigma_next)
        b = sigma_next if end is None else end(sigma, sigma_next)
        return noise_sampler(a, b)

    return draw


def _progress(steps: int, disable: bool | None):
    """k-diffusion's progress bar where the host carries tqdm, which all known hosts do."""
    try:
        from tqdm.auto import trange
    except ImportError:
        return range(steps)
    return trange(steps, disable=disable)
