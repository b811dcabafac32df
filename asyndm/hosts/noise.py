"""The host's generators of noise: a pass that comes before the run leaves them as they were."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch


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
