"""What every sampler's asynchronous form costs: `python -m asyndm bench overhead --samplers`.

For each rule a run of a few steps on a U-Net of real size with random weights and guidance, twice:
AsynDM (hooks, capture of attention, masks, clocks, maps of noise levels), and the same rule with
plain numbers for noise levels on the plain network. Operations are counted on the meta device, at
Stable Diffusion 1.5's shape and at SDXL's, whose time and label embeddings are joined in one table.
Time: pairs of runs in one process that change their order, as in :mod:`asyndm.bench.timing`; on a
CPU with small latents, on a GPU both shapes at their own sizes.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode
from tqdm import tqdm

from asyndm.bench.subject import CURVATURE, WORDS, Subject, device_name
from asyndm.bench.timing import alternate, compared, matching, seconds
from asyndm.core.masks import DynamicMasks
from asyndm.core.rules import REGISTRY, make_rule
from asyndm.core.run import Director
from asyndm.core.sampling import sample_asyndm
from asyndm.core.schedule import Size

# A GPU waits for the program, so that entering and leaving weighs more there: longer runs.
STEPS = {"cpu": 5, "cuda": 8}
SIZE: dict[str, Size] = {"sd15": (64, 64), "sdxl": (128, 128)}
# On a CPU small latents, so that what is beside the network weighs more.
TIMED: dict[str, dict[str, Size]] = {"cpu": {"sd15": (32, 32), "sdxl": (16, 16)}, "cuda": SIZE}
MAX_PAIRS = 12


def sampler_costs(
    minutes: float,
    tiny: bool = False,
    timed: bool = True,
    progress: bool = True,
    device: str = "cpu",
    shapes: Sequence[str] = tuple(SIZE),
    earlier: dict[str, Any] | None = None,
    keep: Callable[[dict[str, Any]], None] = lambda figures: None,
) -> dict[str, Any]:
    """The figures by rule.

    Args:
        minutes: to aim for; each rule is timed in at least 3 pairs of runs.
        tiny: a narrow network and small latents, to try the benchmark itself.
        timed: False = operations alone.
        progress: a progress bar on the error stream.
        device: where torch runs the network.
        shapes: of :data:`SIZE`.
        earlier: figures of a run that was cut off: what it measured is not measured again.
        keep: called with the figures so far after each rule's time.

    Raises:
        ValueError: ``earlier`` was measured otherwise.
    """
    end = time.monotonic() + 60 * minutes
    shapes = ("sd15",) if tiny else tuple(shapes)
    kind = "cuda" if torch.device(device).type == "cuda" else "cpu"
    at = TIMED[kind]
    sizes = {shape: (16, 16) if tiny else at[shape] for shape in shapes} if timed else {}
    head = {
        "steps": STEPS[kind],
        "timed": {shape: list(size) for shape, size in sizes.items()},
        "threads": torch.get_num_threads(),
        "device": device_name(device),
        "torch": torch.__version__,
    }
    figures: dict[str, Any] = {rule: {} for rule in REGISTRY}
    if earlier is not None:
        kept = matching(earlier, head, "samplers")
        figures |= {rule: found for rule, found in kept.items() if rule in REGISTRY}
    todo = [(s, rule) for s in sizes for rule in figures if f"time_ratio_{s}" not in figures[rule]]
    with tqdm(total=len(figures) * len(shapes) + len(todo), disable=not progress) as bar:
        for shape in shapes:
            subject = Subject((16, 16) if tiny else SIZE[shape], tiny, "meta", shape)
            known: dict[int, float] = {}  # rules multiply no matrices: their calls alone count
            for rule, found in figures.items():
                calls = REGISTRY[rule].calls
                if calls not in known:
                    bar.set_description(f"operations {shape} {rule}")
                    counts = {method: _operations(subject, rule, method) for method in _RUNS}
                    known[calls] = counts["asyndm"] / counts["synchronous"]
                found[f"operations_ratio_{shape}"] = known[calls]
                bar.update()
        for number, (shape, rule) in enumerate(todo):
            if number == 0 or shape != todo[number - 1][0]:
                subject = Subject(sizes[shape], tiny, device, shape)
            bar.set_description(f"time {shape} {rule}")
            until = time.monotonic() + (end - time.monotonic()) / (len(todo) - number)
            measured = _time(subject, rule, until)
            figures[rule] |= {f"{key}_{shape}": value for key, value in measured.items()}
            keep(head | {"samplers": figures})
            bar.update()
    return head | {"samplers": figures}


def describe(figures: dict[str, Any]) -> str:
    """The figures in a few lines."""
    lines = [f"{figures['steps']} steps, AsynDM / the same rule synchronous:"]
    for rule, found in figures["samplers"].items():
        parts = [
            f"operations ({key.rpartition('_')[2]}) {value:.4f}"
            for key, value in found.items()
            if key.startswith("operations")
        ]
        for shape in figures["timed"]:
            if f"time_ratio_{shape}" not in found:
                continue
            low, high = found[f"time_ratio_interval_{shape}"]
            parts.append(
                f"time ({shape}) {found[f'time_ratio_{shape}']:.3f} "
                f"({low:.3f} to {high:.3f}, {found[f'pairs_{shape}']} pairs)"
            )
        lines.append(f"{rule}: {', '.join(parts)}")
    return "\n".join(lines)


def _operations(subject: Subject, rule: str, method: str) -> int:
    with FlopCounterMode(display=False) as counter:
        _RUNS[method](subject, rule)
    return counter.get_total_flops()


def _time(subject: Subject, rule: str, until: float) -> dict[str, Any]:
    def timed(method: str) -> float:
        return seconds(subject, lambda: _RUNS[method](subject, rule))

    return compared(alternate(timed, list(_RUNS), until, MAX_PAIRS), "asyndm", "synchronous")


def _sigmas(subject: Subject) -> Tensor:
    steps = STEPS.get(subject.device.type, STEPS["cpu"])
    every = (len(subject.sigmas) - 1) // steps
    return torch.cat([subject.sigmas[:-1][::every][:steps], torch.zeros(1)])


def _noise(subject: Subject) -> Callable[[Any, Any], Tensor]:
    return lambda sigma, sigma_next: torch.randn_like(subject.x)


@torch.no_grad()
def _asyndm(subject: Subject, rule: str) -> Tensor:
    """The whole run, entered and left as a host does."""
    p = subject.parametrisation
    director = Director(p, DynamicMasks(subject.capture, (CURVATURE,) * len(WORDS)))
    sigmas = _sigmas(subject)
    subject.director = director

    def model(x: Tensor, sigma: Tensor) -> Tensor:
        director.call.rows = subject.rows
        return subject.denoise(x, director.call.pixel_time.sigma_map(), sigma)

    with subject.attached("asyndm"):
        return sample_asyndm(
            model, subject.x * float(sigmas[0]), sigmas, disable=True,
            director=director, rule=rule, noise_sampler=_noise(subject),
        )  # fmt: skip


@torch.no_grad()
def _synchronous(subject: Subject, rule: str) -> Tensor:
    """The same rule; every noise level is one number, and nothing is in the network."""
    stepper, sigmas = make_rule(rule), _sigmas(subject)
    host, levels = sigmas.tolist(), sigmas.to(subject.device).view(-1, 1, 1, 1)
    x = subject.x * host[0]
    stepper.begin(host)
    noise = _noise(subject)
    for i in range(len(host) - 1):
        now, after = levels[i : i + 1], levels[i + 1 : i + 2]

        def draw(start: Any = None, end: Any = None) -> Tensor:
            return noise(None, None)

        def model_at(x: Tensor, between: Any, now=now, after=after) -> Tensor:
            level = between(now, after)
            return subject.denoise(x, level, level.flatten())

        denoised = subject.denoise(x, now, now.flatten())
        x = stepper.step(x, denoised, now, after, host[i], host[i + 1], draw, model_at)
    return x


_RUNS = {"synchronous": _synchronous, "asyndm": _asyndm}
