"""Levelled norms in a WebUI: which table a job needs, and its calibration in the first such job."""

from __future__ import annotations

import logging
import math
import os
import re
import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from modules import sd_samplers_common, shared
from torch import Tensor, nn
from tqdm import tqdm

from asyndm.core.rows import UNCONDITIONAL, Rows
from asyndm.hosts import shims
from asyndm.hosts.infotext import NORMS_KEY
from asyndm.hosts.prompts import is_hires
from asyndm.network import is_transformer
from asyndm.network.calibrate import from_walk
from asyndm.network.norm_table import NormTable, NormTables
from asyndm.network.norms import LevelledNorms

if TYPE_CHECKING:
    from asyndm.hosts.hosted import HostRun

log = logging.getLogger("asyndm")
_TABLES = NormTables()
# Parts of the names of parameters that tell of a changed network: FreeU's, hypernetworks'.
_CHANGES = re.compile(r"freeu|hypernet|deep ?shrink|kohya", re.IGNORECASE)


def norms_for(run: HostRun) -> LevelledNorms | None:
    """What levels the norms of a run's network; None where its settings leave them the host's."""
    if run.settings.norms == "host" or is_transformer(run.network()):
        return None

    def find(unet: nn.Module, args: tuple, kwargs: dict, rows: Rows) -> NormTable:
        _TABLES.folder = shims.norms_place()
        parts = circumstances(run, args[0] if args else kwargs["x"], rows)
        table = _TABLES.get(parts, unet)
        if table is None:
            table = _calibrated(run, unet, args, kwargs, rows, parts)
        run.p.extra_generation_params[NORMS_KEY] = table.name
        return table

    return LevelledNorms(find=find)


def circumstances(run: HostRun, x: Tensor, rows: Rows) -> list[str]:
    """What a table depends on: checkpoint, what changes the network, size class, kinds of rows."""
    height, width = x.shape[-2:]
    kinds = sorted({"without" if part == UNCONDITIONAL else "with" for part in rows.parts})
    return [
        f"checkpoint {checkpoint_of(run.checkpoint(), run.model())}",
        f"networks {networks_of(run.p)}",
        f"changes {changes_of(run.p, run.options())}",
        f"size class {round(math.log2(height * width))}",  # of twice the pixels, the next
        f"prompts {' and '.join(kinds)}",
    ]


def hash_of(info: Any) -> str:
    """The hash of a checkpoint, or its first letters; "" where the host makes none.

    Not the hosts' older ``hash``: it reads 64 kB of the file, which two checkpoints may share.
    """
    return str(getattr(info, "sha256", None) or getattr(info, "shorthash", None) or "")


def checkpoint_of(info: Any, model: Any) -> str:
    """What tells a model's checkpoint from others: its hash, else its file as it is now."""
    if told := hash_of(info):
        return told
    file = str(getattr(info, "filename", "") or getattr(info, "title", ""))
    if os.path.isfile(file):
        state = os.stat(file)
        return f"{file}:{state.st_size}:{state.st_mtime_ns}"
    return file or str(getattr(model, "sd_model_hash", None) or type(model).__name__)


def networks_of(p: Any) -> str:
    """LoRA and their like of the batch in progress, with their weights."""
    hires = is_hires(p) and getattr(p, "hr_extra_network_data", None)
    data = hires or getattr(p, "extra_network_data", None) or {}
    names = [
        f"{kind}:{':'.join(map(str, getattr(one, 'items', ())))}"
        for kind, many in data.items()
        for one in many
    ]
    return ", ".join(sorted(names)) or "none"


def changes_of(p: Any, options: Mapping[str, Any] | None) -> str:
    """What else works on the network, as far as parameters and a backend's options tell."""
    told = [
        f"{name}={value}"
        for name, value in getattr(p, "extra_generation_params", {}).items()
        if _CHANGES.search(name)
    ]
    if options and (described := _described(options)):
        told.append(described)
    return ", ".join(sorted(told)) or "none"


def _described(item: Any, depth: int = 0) -> str:
    """Functions by name with the plain values they hold; of other objects the kind alone.

    Tensors (a job's sigmas, say) and what holds nothing change no network: "".
    """
    if isinstance(item, Tensor):
        return ""
    if item is None or isinstance(item, bool | int | float | str):
        return repr(item)
    if depth > 6:
        return type(item).__name__
    if isinstance(item, Mapping):
        pairs = sorted((str(key), _described(value, depth + 1)) for key, value in item.items())
        told = ", ".join(f"{key}: {value}" for key, value in pairs if value)
        return f"{{{told}}}" if told else ""
    if isinstance(item, list | tuple | set):
        told = ", ".join(filter(None, (_described(each, depth + 1) for each in item)))
        return f"[{told}]" if told else ""
    function = getattr(item, "__func__", item)
    if not callable(function) or not hasattr(function, "__qualname__"):
        return type(item).__name__
    held = [
        cell.cell_contents for cell in getattr(function, "__closure__", None) or () if _full(cell)
    ]
    plain = ", ".join(filter(None, (_described(value, depth + 1) for value in held)))
    return f"{function.__module__}.{function.__qualname__}({plain})"


def _full(cell: Any) -> bool:
    try:
        cell.cell_contents  # noqa: B018 - it raises where nothing was put in
    except ValueError:
        return False
    return True


def _calibrated(
    run: HostRun, unet: nn.Module, args: tuple, kwargs: dict, rows: Rows, parts: Sequence[str]
) -> NormTable:
    """Network calls, in this job; they can be interrupted as its own can."""
    begun, calls = time.monotonic(), 0
    state, before = shared.state, getattr(shared.state, "textinfo", None)
    with tqdm(desc="AsynDM: calibrating norms", unit="call", disable=_quiet()) as bar:

        def report(done: int, of: int) -> None:
            nonlocal calls
            if state.interrupted or state.skipped:
                raise sd_samplers_common.InterruptedException
            calls, bar.total = of, of
            bar.update(done - bar.n)
            state.textinfo = f"AsynDM: calibrating norms, {done} of {of}"

        try:
            table = from_walk(unet, args, kwargs, rows, run.parametrisation, report=report)
        finally:
            state.textinfo = before
    why = _TABLES.put(parts, table)
    line = (
        f"AsynDM: norms are calibrated for this checkpoint ({calls} network calls, "
        f"{time.monotonic() - begun:.0f} s)"
    )
    line += f"; {why}, so again after the next start." if why else "; later jobs use the table."
    log.info(line)
    run.p.comment(line)
    return table


def _quiet() -> bool:
    return bool(getattr(shared.cmd_opts, "disable_console_progressbars", False))
