"""What AsynDM costs in transformers: `python -m asyndm bench overhead --shapes sd35 flux chroma`.

Operations are counted at full depth on torch's meta device (Flux has 12 billion parameters), at
1024x1024 pixels, for a step whose pixels are at 10 and at 50 timesteps, with attention read.
Time is measured on a few blocks of the real width, at 512x512 pixels: beside fewer tokens the
table of timesteps weighs more. Chroma's time is not measured: its vectors come from one network,
whose weight beside a few blocks says nothing.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode
from tqdm import tqdm

from asyndm.bench.chroma import Chroma
from asyndm.bench.subject import device_name, fill
from asyndm.bench.timing import CONFIDENCE, alternate, compared
from asyndm.core.rows import Rows
from asyndm.core.run import NetworkCall
from asyndm.core.schedule import PixelTime, Size
from asyndm.network import AttentionCapture, attach

LEVELS = (10, 50)  # timesteps in one call
FULL, TIMED = (128, 128), (64, 64)  # latents
WORDS = [[3], [7, 8]]
MAX_PAIRS = 12
PLAIN = "plain"


@dataclass
class Built:
    """A network and one step of it.

    Attributes:
        call: the network's calls of one step.
        rows: of each call.
    """

    network: nn.Module
    call: Callable[[], Any]
    rows: Rows


def sd35(blocks: int, size: Size, device: str) -> Built:
    """Stable Diffusion 3.5-medium: 24 blocks, the first 13 with a second attention; with CFG."""
    from diffusers import SD3Transformer2DModel

    with torch.device("meta"):
        network = SD3Transformer2DModel(
            sample_size=128, num_layers=blocks, attention_head_dim=64, num_attention_heads=24,
            joint_attention_dim=4096, caption_projection_dim=1536, pooled_projection_dim=2048,
            out_channels=16, pos_embed_max_size=384, qk_norm="rms_norm",
            dual_attention_layers=tuple(range(min(13, (blocks + 1) // 2))),
        )  # fmt: skip
    network = fill(network, torch.device(device))
    inputs = drawn(device, (2, 16, *size), (2, 333, 4096), (2, 2048), (2,))
    return Built(network, lambda: network(*inputs), Rows.uncond_then_cond(1, device=device))


def flux(blocks: tuple[int, int], size: Size, device: str) -> Built:
    """Flux.1-dev: 19 double and 38 single blocks; distilled guidance, so one row."""
    from diffusers import FluxTransformer2DModel

    with torch.device("meta"):
        network = FluxTransformer2DModel(
            num_layers=blocks[0], num_single_layers=blocks[1], attention_head_dim=128,
            num_attention_heads=24, joint_attention_dim=4096, pooled_projection_dim=768,
            guidance_embeds=True, in_channels=64,
        )  # fmt: skip
    network = fill(network, torch.device(device))
    tokens, names = size[0] * size[1] // 4, ("hidden_states", "encoder_hidden_states")
    names = (*names, "pooled_projections", "timestep", "guidance", "img_ids", "txt_ids")
    shapes = ((1, tokens, 64), (1, 512, 4096), (1, 768), (1,), (1,), (tokens, 3), (512, 3))
    inputs = dict(zip(names, drawn(device, *shapes)))
    return Built(network, lambda: network(**inputs), Rows.only_cond(1, device=device))


def chroma(size: Size, device: str, calls: int) -> Built:
    """Chroma: 19 double and 38 single blocks, its prompts in calls of their own."""
    with torch.device(device):
        network = Chroma().eval()
    x, context, t = drawn(device, (1, 16, *size), (1, 256, 4096), (1,))

    def step() -> None:
        for _ in range(calls):
            network(x, t, context)

    return Built(network, step, Rows.only_cond(1, device=device))


FULL_DEPTH: dict[str, Callable[[], Built]] = {
    "sd35": lambda: sd35(24, FULL, "meta"),
    "flux": lambda: flux((19, 38), FULL, "meta"),
    "chroma": lambda: chroma(FULL, "meta", 2),  # with CFG; both calls share the table
    "chroma at CFG 1": lambda: chroma(FULL, "meta", 1),
}
A_FEW_BLOCKS: dict[str, tuple[str, Callable[[str], Built]]] = {
    "sd35": ("3 blocks, 2 with a second attention", lambda device: sd35(3, TIMED, device)),
    "flux": ("a double and a single block", lambda device: flux((1, 1), TIMED, device)),
}
SHAPES = ("sd35", "flux", "chroma")


def drawn(device: str, *shapes: tuple[int, ...]) -> list[Tensor]:
    """Random inputs."""
    if device == "meta":
        return [torch.empty(shape, device=device) for shape in shapes]
    generator = torch.Generator(device).manual_seed(0)
    return [torch.rand(shape, generator=generator, device=device) for shape in shapes]


def told(built: Built, size: Size, levels: int, device: str) -> NetworkCall:
    """A call whose pixels are at so many timesteps, each as often as the others."""
    if device == "meta":
        table = torch.empty(levels, device=device)
        index = torch.empty(1, size[0] // 2, size[1] // 2, dtype=torch.long, device=device)
    else:
        table = torch.linspace(0.2, 0.8, levels, device=device)
        cells = torch.arange(size[0] * size[1] // 4, device=device)
        index = (cells % levels).view(1, size[0] // 2, size[1] // 2)
    return NetworkCall(PixelTime(table, index, table, size, 2), table, built.rows)


def operations(built: Built, levels: int | None, softmax: str = "text") -> int:
    """Floating-point operations of a step, None = plain."""

    def count() -> int:
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            built.call()
        return counter.get_total_flops()

    if levels is None:
        return count()
    call = told(built, FULL, levels, "meta")
    with attach(built.network, call, AttentionCapture([[WORDS]], softmax=softmax)):
        return count()


def transformer_costs(
    shapes: Sequence[str],
    minutes: float,
    timed: bool = True,
    progress: bool = True,
    device: str = "cpu",
    few: dict[str, tuple[str, Callable[[str], Built]]] | None = None,
    keep: Callable[[dict[str, Any]], None] = lambda figures: None,
) -> dict[str, Any]:
    """The figures by shape.

    Args:
        shapes: of :data:`SHAPES`.
        minutes: to aim for.
        timed: False = operations alone.
        progress: a progress bar on the error stream.
        device: where the few blocks run.
        few: what is timed; default :data:`A_FEW_BLOCKS`.
        keep: called with the figures so far after each part.
    """
    end = time.monotonic() + 60 * minutes
    few = A_FEW_BLOCKS if few is None else few
    counted = {name: make for name, make in FULL_DEPTH.items() if name.split()[0] in shapes}
    todo = [shape for shape in shapes if timed and shape in few]
    figures: dict[str, Any] = {name: {} for name in counted}
    made = {
        "confidence": CONFIDENCE,
        "counted": list(FULL),
        "timed": list(TIMED),
        "threads": torch.get_num_threads(),
        "device": device_name(device),
        "torch": torch.__version__,
        "shapes": figures,
    }
    with tqdm(total=len(counted) + len(todo), disable=not progress) as bar:
        for name, make in counted.items():
            bar.set_description(f"operations {name}")
            built = make()
            plain = operations(built, None)
            for softmax in ("text", "joint"):
                figures[name][f"operations_ratio_{softmax}"] = {
                    str(levels): operations(built, levels, softmax) / plain for levels in LEVELS
                }
            keep(made)
            bar.update()
        for number, shape in enumerate(todo):
            bar.set_description(f"time {shape}")
            until = time.monotonic() + (end - time.monotonic()) / (len(todo) - number)
            what, make = few[shape]
            figures[shape] |= {"timed": what, "time": _time(make(device), until, device)}
            keep(made)
            bar.update()
    return made


def _time(built: Built, until: float, device: str) -> dict[str, Any]:
    size = TIMED

    @torch.no_grad()
    def timed(method: str) -> float:
        if method == PLAIN:
            return _seconds(built.call, device)
        call = told(built, size, int(method), device)
        with attach(built.network, call, AttentionCapture([[WORDS]])):
            return _seconds(built.call, device)

    methods = [str(levels) for levels in LEVELS]
    times = alternate(timed, [PLAIN, *methods], until, MAX_PAIRS)
    return {method: compared(times, method, PLAIN) for method in methods} | {"seconds": times}


def _seconds(run: Callable[[], Any], device: str) -> float:
    def wait() -> None:
        if torch.device(device).type == "cuda":
            torch.cuda.synchronize(device)

    wait()
    begun = time.perf_counter()
    run()
    wait()
    return time.perf_counter() - begun


def describe(figures: dict[str, Any]) -> str:
    """The figures in a few lines."""
    lines = ["One step of a transformer, AsynDM / plain, by timesteps in the call:"]
    for shape, found in figures["shapes"].items():
        for softmax in ("text", "joint"):
            ratios = found[f"operations_ratio_{softmax}"].items()
            parts = ", ".join(f"{levels}: {ratio:.4f}" for levels, ratio in ratios)
            lines.append(f"{shape}: operations, {softmax} softmax, {parts}")
        for levels in LEVELS if "time" in found else ():
            of = found["time"][str(levels)]
            low, high = of["time_ratio_interval"]
            lines.append(
                f"{shape}: time of {found['timed']}, {levels}: {of['time_ratio']:.3f} "
                f"({low:.3f} to {high:.3f}, {of['pairs']} pairs)"
            )
    return "\n".join(lines)
