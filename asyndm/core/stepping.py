"""The update rules under the name they had when there were three: see :mod:`asyndm.core.rules`."""

from __future__ import annotations

from asyndm.core.rules import make_rule
from asyndm.core.rules.base import SECOND_ORDER_CAP, Draw, Rule, ancestral_split, euler_step
from asyndm.core.rules.multistep import DpmPP2M
from asyndm.core.rules.single import Ddpm, Euler, FlowDdpm

__all__ = [
    "SECOND_ORDER_CAP",
    "Ddpm",
    "DpmPP2M",
    "Draw",
    "Euler",
    "FlowDdpm",
    "Rule",
    "ancestral_split",
    "euler_step",
    "make_rule",
]
