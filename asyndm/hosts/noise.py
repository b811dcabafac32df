"""The host's generators of noise: whose a sampler takes, and that a pass before the run leaves them
as they were."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor


def of_twin(twin: Callable, x: Tensor) -> Callable[[Tensor, Tensor], Tensor] | None:
    """The noise of a sampler's own module where that is not the job's; None where it is.

    ComfyUI's samplers, which reForge has beside its own, draw from torch's generator for the whole
    batch at once. They are known by a maker of noise that takes a ``seed``, which no host gives.

    Args:
        twin: the host's function.
        x: the latents it starts from, [B, C, H, W].
    """
    make = getattr(inspect.unwrap(twin), "__globals__", {}).get("default_noise_sampler")
    if make is None or "seed" not in inspect.signature(make).parameters:
        return None
    return make(x)


@contextmanager
def rewound(rng: Any, device: torch.device) -> Iterator[None]:
    """What is drawn inside the block is drawn again behind it.

    Args:
        rng: the host's ``ImageRNG``, one generator an image.
        device: of the latents; torch's own generators there and on the CPU are rewound too.
    """
    before = _state(rng)
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        yield
    _restore(rng, before)


def _state(rng: Any) -> list[Any]:
    return [
        g.get_state() if isinstance(g, torch.Generator) else copy.deepcopy(g.__dict__)
        for g in rng.generators
    ]


def _restore(rng: Any, states: list[Any]) -> None:
    for generator, state in zip(rng.generators, states):
        if isinstance(generator, torch.Generator):
            generator.set_state(state)
        else:
            generator.__dict__.update(state)
