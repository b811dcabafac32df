"""The house as it is: its rooms and who imports whom, read from the code, drawn to docs/house.svg.

    python tools/house.py

Imports only go down; ``bench``, ``cli`` and the like stand beside: they use the rooms, no room uses
them. The tests read the same arrows.
"""

from __future__ import annotations

import argparse
import ast
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
# From the top floor down, with what is in them.
ROOMS = {
    "scripts": "the script a WebUI loads",
    "hosts": "what touches a WebUI: one file a host, samplers, prompts, infotext, X/Y/Z",
    "page": "what a person sees: controls, previews, studio, Gradio's shim",
    "scenes": "the embedded model: world, training, checker, weights",
    "guidance": "guidance methods, one file each",
    "network": "what touches a network: attention, per-pixel timesteps, one file a family",
    "core": "settings, clocks, rules, masks, the run, words: pure tensors and text",
}
BESIDE = ("bench", "cli", "__main__", "pipelines")


def modules() -> dict[str, Path]:
    """Every module of the project by its dotted name; the script's is ``scripts.NAME``."""
    paths = [*(ROOT / "asyndm").rglob("*.py"), *(ROOT / "scripts").glob("*.py")]
    return {
        ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path
        for path in paths
    }


def room_of(module: str) -> str:
    """The room (or what stands beside) a module is in; "" for the package's own face."""
    if module.startswith("scripts"):
        return "scripts"
    return (*module.split("."), "")[1]


def imported(path: Path) -> Iterator[str]:
    """What a file imports, wherever in it: statements, and names handed to ``import_module``."""
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Call) and node.args:
            function = getattr(node.func, "attr", getattr(node.func, "id", ""))
            if function in ("import_module", "find_spec", "__import__"):
                yield _text(node.args[0])


def _text(node: ast.expr) -> str:
    """A text constant, or what an f-string begins with."""
    first = node.values[0] if isinstance(node, ast.JoinedStr) and node.values else node
    return str(first.value) if isinstance(first, ast.Constant) else ""


def arrows() -> Counter[tuple[str, str]]:
    """How many files of one room import something of another: (from, to) -> files."""
    found: Counter[tuple[str, str]] = Counter()
    for module, path in modules().items():
        here = room_of(module)
        there = {room_of(name) for name in imported(path) if name.startswith("asyndm.")}
        for room in there & {*ROOMS, *BESIDE} - {here}:
            if here:
                found[here, room] += 1
    return found


def told() -> list[str]:
    """The arrows as text, as the picture carries them."""
    return sorted(f"{one} -> {two}" for one, two in arrows())


def draw(out: Path) -> None:
    """The picture: a floor a room, an arrow where a file of one imports something of another."""
    import matplotlib

    matplotlib.use("svg")
    import matplotlib.pyplot as plt
    from matplotlib.patches import FancyArrowPatch, FancyBboxPatch

    plt.rcParams |= {"svg.hashsalt": "asyndm", "svg.fonttype": "none"}
    figure, axes = plt.subplots(figsize=(9.6, 6.9))
    axes.set(xlim=(0, 9.6), ylim=(-0.05, 6.85))
    axes.axis("off")
    bottoms = {room: 6.1 - number for number, room in enumerate(ROOMS)}
    counts = Counter(room_of(module) for module in modules())

    def box(left: float, bottom: float, width: float, height: float, face: str, edge: str) -> None:
        style = "round,pad=0.02,rounding_size=0.08"
        axes.add_patch(FancyBboxPatch((left, bottom), width, height, style, fc=face, ec=edge))

    def arrow(start: tuple[float, float], end: tuple[float, float], colour: str) -> None:
        style = {"arrowstyle": "-|>", "mutation_scale": 9, "color": colour, "lw": 1.1}
        axes.add_patch(FancyArrowPatch(start, end, shrinkA=0, shrinkB=0, **style))

    for room, bottom in bottoms.items():
        box(0.2, bottom, 7.4, 0.62, "#f4f6f9", "#8a94a3")
        files = f"{counts[room]} file{'s' * (counts[room] != 1)}"
        axes.text(0.4, bottom + 0.42, f"{room}/", fontsize=12, weight="bold", va="center")
        axes.text(1.75, bottom + 0.41, files, fontsize=8, color="#59636f", va="center")
        axes.text(0.4, bottom + 0.14, ROOMS[room], fontsize=8, color="#59636f", va="center")
    box(8.4, bottoms["core"], 1.0, 6.62, "#fff6ec", "#c79a66")
    text = "beside:\nbench/\npipelines/\ncli.py\n\nuse the\nrooms,\nno room\nuses\nthem"
    axes.text(8.9, 3.4, text, fontsize=9.5, ha="center", va="center")
    floors = list(ROOMS)
    inside = sorted(
        (pair for pair in arrows() if not {*pair} & {*BESIDE}),
        key=lambda pair: (floors.index(pair[1]), -floors.index(pair[0])),
    )
    for number, (one, two) in enumerate(inside):
        x = 7.4 - 0.17 * number
        up = bottoms[two] > bottoms[one]
        arrow((x, bottoms[one]), (x, bottoms[two] + 0.64), "#c0392b" if up else "#2b6cb0")
    for room in ROOMS:
        if any((one, room) in arrows() for one in BESIDE):
            arrow((8.38, bottoms[room] + 0.31), (7.64, bottoms[room] + 0.31), "#c79a66")
    figure.tight_layout(pad=0.3)
    figure.savefig(out, metadata={"Date": None, "Description": "; ".join(told())})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=ROOT / "docs" / "house.svg")
    args = parser.parse_args()
    draw(args.out)
    print("\n".join(told()))


if __name__ == "__main__":
    main()
