"""The methods by name, made from the settings; and what they say to each other."""

from __future__ import annotations

from collections.abc import Callable

from asyndm.core.settings import GUIDANCES, Settings, SettingsError
from asyndm.guidance.apg import Apg
from asyndm.guidance.base import Guidance
from asyndm.guidance.cfg import Cfg, Interval
from asyndm.guidance.cfgpp import ByWeight, CfgPP
from asyndm.guidance.pag import Pag
from asyndm.guidance.scfg import SCfg
from asyndm.guidance.seg import Seg
from asyndm.guidance.tpg import Tpg

METHODS: dict[str, Callable[[Settings], Guidance]] = {
    "cfg": lambda s: Cfg(),
    "s-cfg": lambda s: SCfg(),
    "seg": lambda s: Seg(s.perturbed_scale, s.seg_blur),
    "pag": lambda s: Pag(s.perturbed_scale),
    "tpg": lambda s: Tpg(s.perturbed_scale),
    "apg": lambda s: Apg(s.apg_eta, s.apg_momentum, s.apg_norm),
    "cfg++": lambda s: CfgPP(s.cfgpp_lambda),
    "cfg++w": lambda s: ByWeight(s.cfgpp_lambda),
}
assert tuple(METHODS) == GUIDANCES
# What of the settings guides, at its default: plain CFG.
PLAIN = {"guidance": "cfg", "zigzag": 0.0, "interval_low": 0.0, "interval_high": 0.0}
# By the names of a plot's axis: what each sets of clock, guidance and zigzag.
_LABELS = {
    "S-CFG": "s-cfg", "SEG": "seg", "PAG": "pag", "TPG": "tpg", "APG": "apg", "CFG++": "cfg++",
}  # fmt: skip
READY: dict[str, dict[str, str | float]] = {
    "CFG": {"clock": "synchronous", "guidance": "cfg", "zigzag": 0.0},
    "Concave for all": {"clock": "concave", "guidance": "cfg", "zigzag": 0.0},
    "AsynDM": {"clock": "asynchronous", "guidance": "cfg", "zigzag": 0.0},
}
for _clock, _before in (("synchronous", ""), ("asynchronous", "AsynDM + ")):
    for _label, _name in _LABELS.items():
        READY[_before + _label] = {"clock": _clock, "guidance": _name, "zigzag": 0.0}
    READY[f"{_before}Z-Sampling"] = {"clock": _clock, "guidance": "cfg", "zigzag": 1.0}


def ready(name: str) -> dict[str, str | float]:
    """What a method of :data:`READY` sets.

    Raises:
        SettingsError: there is none of that name.
    """
    found = {each.lower(): each for each in READY}.get(str(name).strip().lower())
    if found is None:
        raise SettingsError(f"method: {name!r} is unknown; choose one of {', '.join(READY)}.")
    return READY[found]


_PERTURBED = ("seg", "pag", "tpg")
# The methods that a strength is of.
OWNERS = {
    "perturbed_scale": _PERTURBED,
    "seg_blur": ("seg",),
    "cfgpp_lambda": ("cfg++", "cfg++w"),
    "apg_eta": ("apg",),
    "apg_momentum": ("apg",),
    "apg_norm": ("apg",),
}


def interval_of(settings: Settings) -> Interval:
    return Interval(settings.interval_low, settings.interval_high)


def guides(settings: Settings) -> bool:
    """Whether the settings ask for anything but plain CFG."""
    plain = settings.guidance == "cfg" and settings.zigzag == 0
    return not plain or interval_of(settings).limits


def check(settings: Settings) -> None:
    """Refuse methods that exclude each other.

    Raises:
        SettingsError: in one line.
    """
    name = settings.guidance
    plusplus = name in OWNERS["cfgpp_lambda"]
    if settings.zigzag > 0 and (plusplus or name == "apg"):
        why = "lambda is its guidance" if plusplus else "it remembers one prediction a step"
        raise SettingsError(
            f"zigzag: {name} cannot zigzag ({why}); set zigzag to 0, or another guidance."
        )
    if plusplus and interval_of(settings).limits:
        raise SettingsError(
            f"interval: {name} sets the guidance of every step itself; set both ends to 0, or "
            "another guidance."
        )
    low, high = settings.interval_low, settings.interval_high
    if 0 < high <= low:
        raise SettingsError(
            f"interval_low: {low:g} is not below interval_high ({high:g}); nothing would be guided."
        )


def idle(settings: Settings) -> list[str]:
    """One line for each strength that changes nothing beside the other settings."""
    changed = settings.changed()
    lines = []
    for name, owners in OWNERS.items():
        if name in changed and settings.guidance not in owners:
            lines.append(
                f"{name}: it is of {' and '.join(owners)}; it changes nothing beside "
                f"{settings.guidance}."
            )
    if "zigzag_up" in changed and settings.zigzag == 0:
        lines.append("zigzag_up: no step zigzags; it changes nothing.")
    return lines
