"""What a host's own sampler does that neither its parameters nor its name tell: asked of it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

# Rules whose hosts do not agree about the step to 0.
_ENDS_DIFFER = {"ipndm", "ipndm_v"}


def options_of(rule: str, twin: Callable) -> dict[str, Any]:
    """The options of our rule that make it the twin's, besides those the host hands in.

    Args:
        rule: one of the registry's.
        twin: the host's function.
    """
    if rule in _ENDS_DIFFER:
        return {"lower_order_final": ends_in_denoised(twin)}
    return {}


def ends_in_denoised(twin: Callable) -> bool:
    """Whether a multistep sampler's step to 0 is of order 1, whose end is the prediction.

    reForge's IPNDM does so, Forge's ends in a step of its full order. Asked by a run of two steps
    on one number: the slope is 0 in the first of them, so a higher order shows in the second.
    """
    seen = []

    def model(x, sigma, **_):
        seen.append(x if not seen else torch.zeros_like(x))
        return seen[-1]

    x, sigmas = torch.ones(1, 1, 1, 1), torch.tensor([2.0, 1.0, 0.0])
    return bool(twin(model, x, sigmas, disable=True).abs().max() < 1e-6)
