"""What a step costs beside time: operations, counted, and peak memory, in a fresh process."""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
from pathlib import Path

import torch
from torch.utils.flop_counter import FlopCounterMode

from asyndm.bench.subject import Subject
from asyndm.core.schedule import Size


def size_name(size: Size) -> str:
    """As it stands in the figures."""
    return f"{size[0]}x{size[1]}"


def count_operations(size: Size, method: str, tiny: bool) -> int:
    """Floating-point operations of one step, on the meta device: nothing is calculated."""
    subject = Subject(size, tiny, device="meta")
    with subject.attached(method), FlopCounterMode(display=False) as counter:
        subject.step(method)
    return counter.get_total_flops()


def memory_in_fresh_process(
    size: Size, method: str, tiny: bool, device: str = "cpu"
) -> dict[str, int]:
    """One step in a process of its own, so that nothing another method did counts.

    Raises:
        RuntimeError: the process failed; its last line says why.
    """
    command = [sys.executable, "-m", "asyndm.bench.footprint"]
    command += [method, *map(str, size), "--device", device, *(["--tiny"] if tiny else [])]
    done = subprocess.run(command, cwd=_root(), capture_output=True, text=True, check=False)
    if done.returncode:
        reason = (done.stderr.strip().splitlines() or ["no message"])[-1]
        raise RuntimeError(
            f"Measuring the memory of {method} at {size_name(size)} failed: {reason}"
        )
    return json.loads(done.stdout.strip().splitlines()[-1])


def _memory(size: Size, method: str, tiny: bool, device: str = "cpu") -> dict[str, int]:
    """Bytes: held before the step, at its peak, and the difference."""
    subject = Subject(size, tiny, device)
    if subject.device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(subject.device)
        before = torch.cuda.memory_allocated(subject.device)
        with subject.attached(method):
            subject.step(method)
        peak = torch.cuda.max_memory_allocated(subject.device)
        return {"before": before, "peak": peak, "growth": peak - before}
    before = _resident("VmRSS")
    try:
        Path("/proc/self/clear_refs").write_text("5")  # the peak starts afresh
    except OSError:
        before = min(before, _resident("VmHWM"))  # building may have needed more: said by `peak`
    with subject.attached(method):
        subject.step(method)
    peak = _resident("VmHWM")
    return {"before": before, "peak": peak, "growth": max(peak - before, 0)}


def _resident(entry: str) -> int:
    """VmRSS (now) or VmHWM (peak) of this process in bytes; the peak where there is no /proc."""
    status = Path("/proc/self/status")
    if status.exists():
        for line in status.read_text().splitlines():
            if line.startswith(entry):
                return 1024 * int(line.split()[1])
    unit = 1 if sys.platform == "darwin" else 1024
    return unit * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def _root() -> Path:
    """The folder `asyndm` lies in: the worker must run the same code."""
    return Path(__file__).resolve().parents[2]


if __name__ == "__main__":  # the process that memory_in_fresh_process starts
    _parser = argparse.ArgumentParser(prog="python -m asyndm.bench.footprint")
    _parser.add_argument("method")
    _parser.add_argument("size", nargs=2, type=int)
    _parser.add_argument("--device", default="cpu")
    _parser.add_argument("--tiny", action="store_true")
    _args = _parser.parse_args()
    print(json.dumps(_memory(tuple(_args.size), _args.method, _args.tiny, _args.device)))
