"""What every method of guidance costs: `python -m asyndm bench overhead --guidance`.

A run of a few steps on a U-Net of Stable Diffusion 1.5's size with random weights, by each method,
with one clock for all pixels and with AsynDM's masks and clocks, against plain CFG with one clock.
Rows are counted on the way into the network, operations on the meta device. Time: pairs of runs in
one process that change their order, as in :mod:`asyndm.bench.timing`.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import nullcontext
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode
from tqdm import tqdm

from asyndm.bench.subject import CURVATURE, WORDS, Subject, device_name
from asyndm.bench.timing import alternate, compared, matching, seconds
from asyndm.core.masks import DynamicMasks, GivenMasks
from asyndm.core.run import Director
from asyndm.core.sampling import sample_asyndm
from asyndm.core.schedule import Size
from asyndm.core.settings import Settings
from asyndm.guidance import METHODS, Guide
from asyndm.guidance.denoiser import MethodDenoiser
from asyndm.network import attach

STEPS = 5
SCALE = 7.5
SIZE: Size = (64, 64)
# On a CPU small latents, so that what is beside the network weighs more.
TIMED: dict[str, Size] = {"cpu": (16, 16), "cuda": (64, 64)}
MAX_PAIRS = 12
CLOCKS = ("synchronous", "asynchronous")
WAYS: dict[str, dict[str, Any]] = {name: {"guidance": name} for name in METHODS}
WAYS["zigzag"] = {"zigzag": 1.0}


def guidance_costs(
    minutes: float,
    tiny: bool = False,
    timed: bool = True,
    progress: bool = True,
    device: str = "cpu",
    earlier: dict[str, Any] | None = None,
    keep: Callable[[dict[str, Any]], None] = lambda figures: None,
) -> dict[str, Any]:
    """The figures by method and clock; arguments and errors as of ``sampler_costs``."""
    end = time.monotonic() + 60 * minutes
    jobs = [(name, clock) for name in WAYS for clock in CLOCKS]
    size = (16, 16) if tiny else TIMED["cuda" if torch.device(device).type == "cuda" else "cpu"]
    head = {
        "steps": STEPS,
        "timed": list(size) if timed else [],
        "threads": torch.get_num_threads(),
        "device": device_name(device),
        "torch": torch.__version__,
    }
    found_before = matching(earlier, head, "methods") if earlier is not None else {}
    figures: dict[str, Any] = {
        name: {clock: dict(found_before.get(name, {}).get(clock, {})) for clock in CLOCKS}
        for name in WAYS
    }
    todo = [job for job in jobs if timed and "time_ratio" not in figures[job[0]][job[1]]]
    with tqdm(total=len(jobs) + len(todo), disable=not progress) as bar:
        subject = Subject((16, 16) if tiny else SIZE, tiny, "meta")
        plain = None
        for name, clock in jobs:
            bar.set_description(f"operations {name} {clock}")
            with FlopCounterMode(display=False) as counter:
                rows = run(subject, name, clock)
            plain = plain or counter.get_total_flops()
            found = figures[name][clock]
            found["rows"], found["operations_ratio"] = rows, counter.get_total_flops() / plain
            bar.update()
        if todo:
            subject = Subject(size, tiny, device)
        for number, (name, clock) in enumerate(todo):
            bar.set_description(f"time {name} {clock}")
            until = time.monotonic() + (end - time.monotonic()) / (len(todo) - number)
            figures[name][clock] |= _time(subject, name, clock, until)
            keep(head | {"methods": figures})
            bar.update()
    return head | {"methods": figures}


def describe(figures: dict[str, Any]) -> str:
    """The figures in a few lines."""
    lines = [f"{figures['steps']} steps, against plain CFG with one clock:"]
    for name, clocks in figures["methods"].items():
        for clock, found in clocks.items():
            line = f"{name}, {clock}: {found['rows']} rows, "
            line += f"operations {found['operations_ratio']:.3f}"
            if "time_ratio" in found:
                low, high = found["time_ratio_interval"]
                line += f", time {found['time_ratio']:.3f} ({low:.3f} to {high:.3f}, "
                line += f"{found['pairs']} pairs)"
            lines.append(line)
    return "\n".join(lines)


class _Network:
    """The subject's U-Net, called as those of diffusers are."""

    def __init__(self, subject: Subject) -> None:
        self.subject = subject

    def __call__(self, x: Tensor, t: Tensor, encoder_hidden_states: Tensor) -> Any:
        unet, dtype = self.subject.unet, self.subject.dtype
        output = unet(x.to(dtype), t, encoder_hidden_states)
        output = output if isinstance(output, Tensor) else output.sample
        return SimpleNamespace(sample=output.to(x.dtype))


@torch.no_grad()
def run(subject: Subject, name: str, clock: str) -> int:
    """One whole run, entered and left as a host does; the rows its network had."""
    p, settings = subject.parametrisation, Settings(enabled=True, **WAYS[name])
    still = clock == "synchronous"
    source = DynamicMasks(subject.capture, (CURVATURE,) * len(WORDS))
    if still:
        source = GivenMasks(torch.zeros(1, 1, dtype=torch.bool), 0.0)
    director = Director(p, source)
    every = (len(subject.sigmas) - 1) // STEPS
    sigmas = torch.cat([subject.sigmas[:-1][::every][:STEPS], torch.zeros(1)])
    guide = Guide(settings, p, director.call, 1, STEPS, still=still)
    guide.begin(sigmas.tolist())
    cond, uncond = subject.context.chunk(2)
    hooks = nullcontext()
    if not still:
        hooks = attach(subject.unet, director.call, subject.capture)
    with hooks, guide.watching(subject.unet):
        sample_asyndm(
            MethodDenoiser(_Network(subject), p, director.call, guide),
            subject.x * float(sigmas[0]),
            sigmas,
            extra_args={"cond": cond, "uncond": uncond, "cond_scale": SCALE},
            disable=True,
            director=director,
            rule=guide.rule("ddpm"),
            passes=guide.passes,
            uncond=lambda: guide.uncond,
            noise_sampler=lambda sigma, after: torch.randn_like(subject.x),
        )
    return guide.counter.counts[0]


def _time(subject: Subject, name: str, clock: str, until: float) -> dict[str, Any]:
    ways = {"method": (name, clock), "plain": ("cfg", "synchronous")}

    def timed(way: str) -> float:
        return seconds(subject, lambda: run(subject, *ways[way]))

    return compared(alternate(timed, list(ways), until, MAX_PAIRS), "method", "plain")
