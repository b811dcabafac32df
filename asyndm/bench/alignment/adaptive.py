"""A strength that each picture has of its own, by what is cheap to know before it is drawn.

k = clip(a + b (objects - 2) + c (share - centre) / spread, 0, 1), to the next .05: the number of
objects that its prompt names, and the share of the mask's cells that are object after three steps
of a short run. Of this repository; no paper has it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from asyndm.core.settings import SettingsError, check_number

LOOK = 3  # steps of the short run
GRID = 20  # strengths lie at multiples of 1 / GRID, so that pictures of equal k share a batch
USUAL = 2  # objects that b counts from
# name -> (lowest, highest)
VALUES = {
    "a": (0.0, 1.0),
    "b": (-1.0, 1.0),
    "c": (-1.0, 1.0),
    "centre": (0.0, 1.0),
    "spread": (1e-4, 1.0),
}


@dataclass(frozen=True)
class Glimpse:
    """What is known of a picture before it is drawn.

    Attributes:
        objects: that its prompt names.
        share: of the mask's cells that are object after :data:`LOOK` steps, 0 to 1; 0 where no
            word of the prompt is matched.
        rows: of the network, that it took to know.
    """

    objects: int
    share: float
    rows: int


@dataclass(frozen=True)
class Rule:
    """The strength as a function of a :class:`Glimpse`.

    Attributes:
        a: the strength of two objects and the usual share.
        b: more of it for each further object.
        c: more of it for each ``spread`` of the share above ``centre``.
        centre, spread: mean and standard deviation of the share on development prompts.
    """

    a: float
    b: float
    c: float
    centre: float
    spread: float

    def k(self, seen: Glimpse) -> float:
        """Within 0 and 1, a multiple of 1 / :data:`GRID`."""
        k = self.a + self.b * (seen.objects - USUAL)
        k += self.c * (seen.share - self.centre) / self.spread
        return math.floor(min(1.0, max(0.0, k)) * GRID + 0.5) / GRID


def read_rule(values: dict[str, str], where: str) -> Rule:
    """The rule of values as they were written.

    Args:
        values: of :data:`VALUES`; others are not read.
        where: what an error names.

    Raises:
        SettingsError: one is missing or out of range.
    """
    missing = [name for name in VALUES if name not in values]
    if missing:
        raise SettingsError(
            f"{where}: adaptive needs a, b, c, centre and spread, as 'bench tune --arms adaptive' "
            f"finds them; missing: {', '.join(missing)}."
        )
    ends = VALUES.items()
    return Rule(**{name: check_number(f"{where}: {name}", values[name], *at) for name, at in ends})


def said(rule: Rule) -> str:
    """The rule as it is written in a method."""
    return ",".join(f"{name}={getattr(rule, name):.4g}" for name in VALUES)


def usual(seen: Sequence[Glimpse]) -> tuple[float, float]:
    """(centre, spread) of the share; one that is the same in all has no say: its spread is 1."""
    shares = [one.share for one in seen]
    mean = sum(shares) / len(shares)
    spread = math.sqrt(sum((share - mean) ** 2 for share in shares) / len(shares))
    return float(f"{mean:.4g}"), float(f"{spread:.4g}") if spread >= 1e-3 else 1.0
