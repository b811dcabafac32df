"""A network's modules, found fast: a host attaches once a job, and SDXL has 2,000 of them."""

from __future__ import annotations

from collections.abc import Iterable

from torch import nn


def every_module(root: nn.Module) -> list[nn.Module]:
    """A module and all inside it, in the order of ``modules()``."""
    found, seen, waiting = [], set(), [root]
    while waiting:
        module = waiting.pop()
        if module in seen:
            continue
        seen.add(module)
        found.append(module)
        if module._modules:
            waiting += [part for part in list(module._modules.values())[::-1] if part is not None]
    return found


def holding(name: str, modules: Iterable[nn.Module]) -> list[nn.Module]:
    """Those with a part or an attribute of their own of that name.

    hasattr looks for longer: through the class, then through parameters and buffers, and an error
    is made where nothing is found.
    """
    return [module for module in modules if name in module._modules or name in module.__dict__]
