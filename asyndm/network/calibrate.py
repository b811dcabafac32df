"""How a table of norms comes about: network calls in which all pixels share a timestep."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from asyndm.core.parametrisation import Parametrisation
from asyndm.core.rows import UNCONDITIONAL, Rows
from asyndm.core.rules import make_rule
from asyndm.network.norm_table import NormTable
from asyndm.network.norms import Recorder

# Of the table. The mean and variance of a group change slowly with t; 25 parts of the way do.
TIMESTEPS = (*range(0, 1000, 40), 999)
SEED = 9
PICTURES = 2  # of a table that a network makes from its own; 16 are hardly better (`bench norms`)
# What the families' networks call them, where they are given by name.
_LATENTS, _TIMES = ("x", "sample"), ("timesteps", "timestep")
# What diffusers' pipelines tell of a ControlNet or an adapter: of the call's own latents.
_HINTS = ("down_block_additional_residuals", "mid_block_additional_residual",
          "down_intrablock_additional_residuals")  # fmt: skip
Report = Callable[[int, int], Any]


@contextmanager
def recording(recorder: Recorder) -> Iterator[None]:
    """The recorder's hooks are in place inside the block."""
    handles = []
    try:
        handles += recorder.watch()
        yield
    finally:
        for handle in handles:
            handle.remove()


@torch.no_grad()
def from_latents(
    call: Callable[[Tensor, Tensor], Any],
    unet: nn.Module,
    latents: Tensor,
    parts: Sequence[int],
    alphas: Tensor,
    timesteps: Sequence[int] = TIMESTEPS,
) -> NormTable:
    """A table of clean latents, noised anew at every timestep.

    Args:
        call: (x, t [rows]) -> one network call, with x already in the network's scaling.
        unet: the network that is called.
        latents: [rows, C, h, w] clean; rows of equal latents get equal noise.
        parts: of the rows.
        alphas: [1000], the product of the alphas.
    """
    recorder, generator = Recorder(unet, parts), torch.Generator().manual_seed(SEED)
    images = len(latents) // len(set(parts))
    with recording(recorder):
        for t in timesteps:
            noise = torch.randn(latents[:images].shape, generator=generator).to(latents)
            noise = noise.repeat(len(latents) // images, 1, 1, 1)
            alpha = alphas[t].to(latents)
            call(
                alpha.sqrt() * latents + (1 - alpha).sqrt() * noise,
                torch.full((len(latents),), float(t), device=latents.device),
            )
            recorder.keep()
    return recorder.table(timesteps)


@torch.no_grad()
def from_walk(
    unet: nn.Module,
    args: tuple,
    kwargs: dict[str, Any],
    rows: Rows,
    parametrisation: Parametrisation,
    pictures: int = PICTURES,
    report: Report | None = None,
    timesteps: Sequence[int] = TIMESTEPS,
) -> NormTable:
    """A table from pictures the network makes itself, in the form of a call a host just makes.

    The host's own call is repeated with other latents and timesteps: from pure noise down all
    timesteps of the table by the DDPM rule without guidance, so whatever else the call holds
    (prompts, labels, sizes) and whatever changes the network is in the table.

    Args:
        unet, args, kwargs: of the call; its latents are [rows, C, h, w] in the network's scaling.
        rows: of the call.
        parametrisation: of the model. Channels of the input beyond those of the output (an
            inpainting model's mask) stay.
        pictures: at least so many are made; the call is walked down again until there are.
        report: told (calls done, calls in all) before every call; whatever it raises ends this.
    """
    recorder, rule = Recorder(unet, rows.parts), make_rule("ddpm", eta=1.0, s_noise=1.0)
    shown = args[0] if args else next(kwargs[name] for name in _LATENTS if name in kwargs)
    image, images = rows.image.to(shown.device), max(rows.images) + 1
    channels = min(shown.shape[1], _channels(unet) or shown.shape[1])
    shape = (channels, *shown.shape[-2:])
    order = sorted(timesteps, reverse=True)
    levels = parametrisation.sigma(torch.tensor([float(t) for t in order])).float()
    walks = -(-pictures // images)
    with recording(recorder):
        for walk in range(walks):
            seeds = [torch.Generator().manual_seed(SEED + walk * images + j) for j in range(images)]

            def draw(*_: Any, seeds: list[torch.Generator] = seeds) -> Tensor:
                noise = [torch.randn(shape, generator=generator) for generator in seeds]
                return torch.stack(noise).to(shown.device)

            x = draw() * levels[0].to(shown.device)
            for i, t in enumerate(order):
                if report is not None:
                    report(walk * len(order) + i, walks * len(order))
                sigma = levels[i].to(shown.device)
                scaled = (x * parametrisation.c_in(sigma))[image].to(shown.dtype)
                output = _call(unet, args, kwargs, torch.cat([scaled, shown[:, channels:]], 1), t)
                recorder.keep()
                if i + 1 < len(order):
                    predicted = _by_image(output[:, :channels].float(), rows, images)
                    denoised = parametrisation.denoised(x, predicted, sigma)
                    after, ends = levels[i + 1].to(shown.device), levels[i : i + 2].tolist()
                    x = rule.step(x, denoised, sigma, after, *ends, draw)
    return recorder.table(order)


def _channels(unet: nn.Module) -> int | None:
    """Of the network's output, as far as it tells."""
    config = getattr(unet, "config", None)
    return getattr(unet if config is None else config, "out_channels", None)


def _call(
    unet: nn.Module, args: tuple, kwargs: dict[str, Any], x: Tensor, timestep: float
) -> Tensor:
    """The network's output for other latents at one timestep; its own hooks do not run."""
    args, kwargs = list(args), dict(kwargs)
    given = args[1] if len(args) > 1 else next(kwargs[name] for name in _TIMES if name in kwargs)
    given = torch.as_tensor(given)
    times = torch.full(given.shape, float(timestep)).to(given.device, given.dtype)
    args[:2] = [x, times][: len(args)]
    for names, value in ((_LATENTS, x), (_TIMES, times)):
        kwargs |= {name: value for name in names if name in kwargs}
    if isinstance(kwargs.get("control"), dict):  # a ControlNet's: its lists are used up by a call
        kwargs["control"] = None
    kwargs |= {name: None for name in _HINTS if name in kwargs}
    output = unet.forward(*args, **kwargs)
    if isinstance(output, Tensor):
        return output
    return output[0] if isinstance(output, tuple) else output.sample


def _by_image(output: Tensor, rows: Rows, images: int) -> Tensor:
    """The mean of each image's conditional rows, of all its rows where it has none."""
    made = []
    for image in range(images):
        mine = [r for r, i in enumerate(rows.images) if i == image]
        conditional = [r for r in mine if rows.parts[r] != UNCONDITIONAL]
        made.append(output[conditional or mine].mean(0))
    return torch.stack(made)
