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

from asyndm.core.rules import REGISTRY
from asyndm.hosts import inside

# Rules whose twins make a Brownian tree of their own where the host hands in no noise.
_ON_A_TREE = ("dpmpp_sde", "dpmpp_2m_sde", "dpmpp_3m_sde")


def of_twin(
    rule: str, twin: Callable, x: Tensor, sigmas: Tensor
) -> Callable[[Tensor, Tensor], Tensor] | None:
    """The noise a sampler makes itself where that is not the job's; None where it is.

    ComfyUI's samplers, which reForge has beside its own, draw from torch's generator for the whole
    batch at once. They are known by a maker of noise that takes a ``seed``, which no host gives.

    Args:
        rule: of the update.
        twin: the host's function, which is handed no noise.
        x: the latents it starts from, [B, C, H, W].
        sigmas: the host's whole list.
    """
    if rule in _ON_A_TREE:
        tree = inside.global_of(twin, "BrownianTreeNoiseSampler")
        if tree is None:
            return None
        # The seed is drawn here, as in the twin.
        on_cpu = {"cpu": True} if inside.of_comfyui(twin) else {}
        return tree(x, sigmas[sigmas > 0].min(), sigmas.max(), **on_cpu)
    if "s_churn" in REGISTRY[rule].options:
        # k-diffusion's draw by the torch of their module, which the hosts exchange in most.
        own = inside.global_of(twin, "torch") is torch
        return (lambda *interval: torch.randn_like(x)) if own else None
    make = inside.global_of(twin, "default_noise_sampler")
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
