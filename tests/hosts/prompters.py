"""Look-alikes of regional prompters.

The attributes and the cross-attention are those of Regional Prompter's own files (scripts/rp.py,
regions.py and attention.py of its port to Forge Neo, 2026).
"""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass, field

import torch


@dataclass
class Cell:
    st: float
    ed: float
    base: float = 0.0
    breaks: int = 0


@dataclass
class Row:
    st: float
    ed: float
    cols: list[Cell] = field(default_factory=list)


@contextmanager
def extension(title: str, change=lambda p: None, **state):
    """Another script that is always there, with what it keeps on itself."""
    from modules import scripts

    class Other(scripts.Script):
        def title(self):
            return title

        def show(self, is_img2img):
            return scripts.AlwaysVisible

    made, runners = Other(), (scripts.scripts_txt2img, scripts.scripts_img2img)
    made.args_from = made.args_to = 0
    made.filename, made.name = "other.py", title.lower()
    vars(made).update(state)
    script = next(s for s in runners[0].alwayson_scripts if s.title() == "AsynDM")
    own = type(script).process_before_every_sampling

    def both(self, p, *given, **named):
        change(p)
        own(self, p, *given, **named)

    for runner in runners:
        runner.alwayson_scripts.append(made)
    type(script).process_before_every_sampling = both
    try:
        yield made
    finally:
        type(script).process_before_every_sampling = own
        for runner in runners:
            runner.alwayson_scripts.remove(made)


def columns(*edges: float, breaks=(0, 0)) -> list[Row]:
    cells = [Cell(a, b, breaks=n) for a, b, n in zip(edges, edges[1:], breaks)]
    return [Row(0.0, 1.0, cells)]


def prompter(**state):
    kept = {"active": True, "calc": "Attention", "usebase": False, "regmasks": None}
    return extension("Regional Prompter", **{**kept, **state})


@contextmanager
def divided(network):
    """Cross-attention as Regional Prompter replaces it: every column sees its own chunk."""
    changed = []

    def forward_of(module):
        own = module.forward

        def forward(x, context=None, *given, **named):
            if context is None or context.shape[1] < 154:
                return own(x, context, *given, **named)
            parts = [own(x, context[:, n : n + 77], *given, **named) for n in (0, 77)]
            side = int(x.shape[1] ** 0.5)
            left = (torch.arange(x.shape[1], device=x.device) % side < side // 2)[None, :, None]
            return torch.where(left, parts[0], parts[1])

        return forward

    for name, module in network.named_modules():
        if name.endswith("attn2"):
            module.forward = forward_of(module)
            changed.append(module)
    try:
        yield
    finally:
        for module in changed:
            del module.forward
