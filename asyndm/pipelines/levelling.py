"""Levelled norms in pipelines: a table for each state of a network, calibrated when first needed.

Tables are kept in memory as long as their network is, for all blocks that steer it.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from asyndm.core.parametrisation import Parametrisation
from asyndm.core.rows import UNCONDITIONAL, Rows
from asyndm.network.calibrate import from_walk
from asyndm.network.norm_table import NormTable, NormTables
from asyndm.network.norms import LevelledNorms
from asyndm.pipelines.views import shown

_TABLES: WeakKeyDictionary[nn.Module, NormTables] = WeakKeyDictionary()
_SAMPLES = 8  # of each weight, to tell whether it was changed
# Of modules and their attention processors: LoRA's, IP-Adapter's and FreeU's strengths.
_STRENGTHS = ("scaling", "scale", "lora_scale", "s1", "s2", "b1", "b2")
_SWITCHES = ("_active_adapter", "_disable_adapters", "merged_adapters")


def norms_for(parametrisation: Parametrisation, say: Callable[[str], Any]) -> LevelledNorms:
    """What levels the norms of a U-Net during one run.

    Args:
        parametrisation: of the model.
        say: told in one line that the network was calibrated.
    """

    def find(unet: nn.Module, args: tuple, kwargs: dict, rows: Rows) -> NormTable:
        tables = _TABLES.setdefault(unet, NormTables())
        parts = circumstances(unet, shown(args, kwargs), rows)
        table = tables.get(parts, unet)
        if table is None:
            calls = 0

            def report(done: int, of: int) -> None:
                nonlocal calls
                calls = of

            table = from_walk(unet, args, kwargs, rows, parametrisation, report=report)
            tables.put(parts, table)
            say(
                f"norms: calibrated for this network ({calls} network calls, which rows do not "
                "count)."
            )
        return table

    return LevelledNorms(find=find)


def forget(unet: nn.Module) -> None:
    """Drop what is known of a network's norms."""
    _TABLES.pop(unet, None)


def circumstances(unet: nn.Module, x: Tensor, rows: Rows) -> list[str]:
    """What a table depends on: the network as it is now, the class of sizes, the kinds of rows."""
    height, width = x.shape[-2:]
    kinds = sorted({"without" if part == UNCONDITIONAL else "with" for part in rows.parts})
    return [
        f"weights {_weights(unet)}",
        f"adapters {_adapters(unet)}",
        f"size class {round(math.log2(height * width))}",  # of twice the pixels, the next
        f"prompts {' and '.join(kinds)}",
    ]


def _weights(unet: nn.Module) -> str:
    """A mark of some numbers of each weight; those that lie nowhere (offloaded) tell nothing."""
    taken = []
    for weight in unet.parameters():
        if weight.device.type != "meta" and weight.numel():
            flat = weight.detach().flatten()
            taken.append(flat[:: max(1, len(flat) // _SAMPLES)][:_SAMPLES].float())
    if not taken:
        return "offloaded"
    device = taken[0].device
    numbers = torch.cat([each.to(device) for each in taken]).cpu()
    return hashlib.sha256(numbers.numpy().tobytes()).hexdigest()[:16]


def _adapters(unet: nn.Module) -> str:
    """Strengths and switches of what was put into a network."""
    told = []
    for name, module in unet.named_modules():
        for owner in (module, getattr(module, "processor", None)):
            for key in (*_STRENGTHS, *_SWITCHES):
                value = getattr(owner, "__dict__", {}).get(key)
                if value is not None and not isinstance(value, (Tensor, nn.Module)):
                    told.append(f"{name}.{type(owner).__name__}.{key}={value!r}")
    return hashlib.sha256("\n".join(told).encode()).hexdigest()[:16]
