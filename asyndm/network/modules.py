"""A network's modules, found fast: a host attaches once a job, and SDXL has 2,000 of them."""

from __future__ import annotations

from collections.abc import Iterable

from torch import nn


def every_module(root: nn.Module) -> list[nn.Module]:
    """A module and all inside it, in the order of ``modules()``."""
    found = {root: None}  # nothing is called for a module without parts

    def look_into(module: nn.Module) -> None:
        for part in module._modules.values():
            if part is not None and part not in found:
                found[part] = None
                if part._modules:
                    look_into(part)

    look_into(root)
    return list(found)


def outermost(name: str, root: nn.Module) -> list[nn.Module]:
    """Those with a part of that name inside a module, itself included; none inside another such."""
    if name in root._modules:
        return [root]
    parts = (part for part in root._modules.values() if part is not None and part._modules)
    return [module for part in parts for module in outermost(name, part)]


def holding(name: str, modules: Iterable[nn.Module]) -> list[nn.Module]:
    """Those with a part or an attribute of their own of that name.

    hasattr looks for longer: through the class, then through parameters and buffers, and an error
    is made where nothing is found.
    """
    return [module for module in modules if name in module._modules or name in module.__dict__]
