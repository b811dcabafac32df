"""What a context map allows to say, worked out from its rows and from nothing else.

A run of curvature k takes its objects down a path through the map (:func:`background_on_path`). The
change is read along it: over the whole run, above timestep 850, at 500, and where it crosses zero.

"Helps" is claimed only of what exceeds the controls, by the least favourable of them: the error
falls, it falls further than that of any other cells with clear surroundings (masks *shifted* and
*foreign*), further than before another picture's background that is as clear and as clearly told
apart (*strange*), and it falls where the mask tells less (*boxed*, *attention*). "Harms" is claimed
where the error rises with the true mask and with those two, whatever the cause. Else it cannot be
told. Standard errors of rows are added as if they were one picture's doing, which they nearly are:
intervals are rather too wide.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import Any

TRUE = "true"
BEATEN = ("shifted", "foreign", "strange")  # a gain must exceed theirs
HELD = ("boxed", "attention")  # what is said must be true with them
CURVATURE = 0.9  # of the path that is judged
HIGH, COST = 850, 500  # timesteps of 1000
_RUN = 50  # steps of the run over which a path is averaged
HELPS, HARMS, UNTOLD = "helps", "harms", "cannot be told"
Row = Mapping[str, float]


@dataclass(frozen=True)
class Figure:
    """A change of the error with its 95% interval, as fractions."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{_percent(self.value)} [{_percent(self.low)}, {_percent(self.high)}]"


@dataclass(frozen=True)
class Part:
    """What is known of one part of a path.

    Attributes:
        change: with the true mask.
        beyond: the least favourable of everything that a claim of help has to hold for.
        least: the control that is from, ``TRUE`` where it is the change itself.
        verdict: HELPS, HARMS or UNTOLD.
    """

    change: Figure
    beyond: Figure
    least: str
    verdict: str


@dataclass(frozen=True)
class Claim:
    """What may be said of a checkpoint.

    Attributes:
        whole: over the run.
        high: above timestep 850 (of 1000); None where the map has no level there.
        zero: the timestep where help ends, on the way down; None = nowhere in the map.
        cost: at timestep 500; None where the map does not reach it.
        background: the change of the background's error over the run, its objects being noisier.
    """

    whole: Part
    high: Part | None
    zero: float | None
    cost: Part | None
    background: Figure

    @property
    def verdict(self) -> str:
        return self.whole.verdict


def background_on_path(t_object: float, curvature: float, steps: int) -> float:
    """The background's timestep when a pixel that was object all along stands at ``t_object``.

    From t_object = b (1 + k (1 - b / T)), the quadratic curve of :mod:`asyndm.core.schedule`.

    Args:
        t_object: a timestep.
        curvature: k within [0, 1].
        steps: T, the length of the model's table.
    """
    whole = max(steps - 1, 1)
    place, rise = t_object / whole, 1 + curvature
    if curvature == 0 or place >= 1:
        return float(t_object)
    return whole * (rise - math.sqrt(rise * rise - 4 * curvature * place)) / (2 * curvature)


@dataclass(frozen=True)
class _Line:
    """Values with standard errors at falling timesteps, straight lines between them."""

    places: tuple[float, ...]
    values: tuple[tuple[float, float], ...]

    def at(self, timestep: float) -> tuple[float, float] | None:
        return _between(timestep, self.places, self.values)


def _between(
    place: float, places: Sequence[float], values: Sequence[tuple[float, float]]
) -> tuple[float, float] | None:
    """Interpolated (value, standard error); None outside. ``places`` fall."""
    rising = list(places)[::-1]
    if not rising or not rising[0] <= place <= rising[-1]:
        return None
    after = min(max(bisect_left(rising, place), 1), len(rising) - 1) if len(rising) > 1 else 0
    if not after:
        return values[0]
    low, high = rising[after - 1], rising[after]
    weight = (place - low) / (high - low)
    one, two = values[::-1][after - 1], values[::-1][after]
    return tuple((1 - weight) * a + weight * b for a, b in zip(one, two))


def path_of(rows: Sequence[Row], k: float, steps: int, name: str = "change") -> _Line:
    """The values of ``name`` (and ``name``'s standard error) on the path of k, level by level."""
    error = "se" if name == "change" else f"{name}_se"
    levels: dict[float, list[Row]] = {}
    for row in rows:
        levels.setdefault(row["t_object"], []).append(row)
    places, values = [], []
    for level in sorted(levels, reverse=True):
        points = {float(level): (0.0, 0.0)}  # at one timestep for all nothing changes
        points |= {
            float(row["t_background"]): (row[name], row[error])
            for row in levels[level]
            if row["t_background"] != level
        }
        ordered = sorted(points, reverse=True)
        value = _between(
            background_on_path(level, k, steps), ordered, [points[place] for place in ordered]
        )
        if value is not None:
            places.append(level)
            values.append(value)
    return _Line(tuple(places), tuple(values))


def _run_points(k: float, steps: int) -> list[float]:
    """The objects' timesteps in a run."""
    parts = [step / _RUN for step in range(_RUN)]
    return [(steps - 1) * (1 - part) * (1 + k * part) for part in parts]


def _mean(line: _Line, places: Sequence[float]) -> tuple[float, float] | None:
    found = [value for place in places if (value := line.at(place)) is not None]
    if not found:
        return None
    return tuple(sum(column) / len(found) for column in zip(*found))


def judge(report: Mapping[str, Any], k: float = CURVATURE) -> Claim:
    """What the rows of a report (:meth:`ContextMeter.report`) allow to say along the path of k.

    Raises:
        ValueError: the path of k does not pass through the map.
    """
    steps, pictures = report["steps"], report["pictures"]
    scale = steps / 1000
    lines = {TRUE: path_of(report["objects"], k, steps)}
    for name, rows in report["controls"].items():
        lines[name] = path_of(rows, k, steps)
        lines[name, "beyond"] = path_of(rows, k, steps, "beyond")
    run = _run_points(k, steps)
    above = [place for place in run if place >= HIGH * scale]
    whole = _part(lines, run, pictures)
    background = _mean(path_of(report["background"], k, steps), run)
    if whole is None or background is None:
        raise ValueError(f"k: the path of {k:g} does not pass through this map; choose a larger k.")
    return Claim(
        whole,
        _part(lines, above, pictures),
        _zero(lines[TRUE]),
        _part(lines, [COST * scale], pictures),
        _figure(background, pictures),
    )


def high_change(rows: Sequence[Row], steps: int, pictures: int, k: float = CURVATURE) -> Figure:
    """The change of some rows above timestep 850 on the path of k.

    Raises:
        ValueError: they have no level there.
    """
    above = [place for place in _run_points(k, steps) if place >= HIGH * steps / 1000]
    mean = _mean(path_of(rows, k, steps), above)
    if mean is None:
        raise ValueError(f"The rows have no level above {HIGH * steps / 1000:g}.")
    return _figure(mean, pictures)


def _part(lines: dict, places: Sequence[float], pictures: int) -> Part | None:
    true = _mean(lines[TRUE], places)
    if true is None:
        return None
    change = _figure(true, pictures)
    held = {TRUE: change}  # what has to be below zero for help
    for name in BEATEN:
        control = _mean(lines[name], places) if name in lines else None
        if control is not None and control[0] < 0:  # else it is the change that is claimed
            held[name] = _figure(_mean(lines[name, "beyond"], places), pictures)
    for name in HELD:
        if name in lines and (control := _mean(lines[name], places)) is not None:
            held[name] = _figure(control, pictures)
    least = max(held, key=lambda name: held[name].high)
    verdict = UNTOLD
    if set(lines) >= {*BEATEN, "boxed"} and held[least].high < 0:
        verdict = HELPS
    elif all(held[name].low > 0 for name in (TRUE, *HELD) if name in held):
        verdict = HARMS
    return Part(change, held[least], least, verdict)


def _zero(line: _Line) -> float | None:
    """Where the first help ends on the way down."""
    levels = [(place, value) for place, (value, _) in zip(line.places, line.values)]
    for (above, before), (below, after) in zip(levels, levels[1:]):
        if before < 0 < after:
            return above + (below - above) * before / (before - after)
    return None


def _figure(cell: tuple[float, float], pictures: int) -> Figure:
    reach = student(pictures - 1) * cell[1]
    return Figure(cell[0], cell[0] - reach, cell[0] + reach)


def student(freedom: int) -> float:
    """The 97.5% point of Student's t (Cornish and Fisher's expansion; exact to 1% from 4 on)."""
    if freedom < 4:
        return (math.inf, 12.706, 4.303, 3.182)[max(freedom, 0)]
    z = NormalDist().inv_cdf(0.975)
    first = (z**3 + z) / 4
    second = (5 * z**5 + 16 * z**3 + 3 * z) / 96
    third = (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384
    return z + first / freedom + second / freedom**2 + third / freedom**3


def sentence(report: Mapping[str, Any], k: float = CURVATURE) -> str:
    """What may be said, in plain words with its figures."""
    claim = judge(report, k)
    said = [f"{_opening(claim, report, k)} ({_terms(claim.whole)})."]
    scale = report["steps"] / 1000
    if claim.high is not None:
        said.append(f"Above timestep {HIGH * scale:g}: {_short(claim.high)}.")
    if claim.zero is not None:
        said.append(f"Crosses zero at {claim.zero:.0f}.")
    else:
        signs = {value > 0 for value, _ in path_of(report["objects"], k, report["steps"]).values}
        said.append("Never above zero." if True not in signs else "No help that ends lower down.")
    if claim.cost is not None:
        said.append(f"At {COST * scale:g}: {_short(claim.cost)}.")
    said.append(f"The background, whose objects are noisier: {claim.background}.")
    if missing := [name for name in (*BEATEN, *HELD) if name not in report["controls"]]:
        said.append(f"Not measured: {', '.join(missing)}.")
    return " ".join(said)


def _opening(claim: Claim, report: Mapping[str, Any], k: float) -> str:
    pictures, way = report["pictures"], f"on the path of k {k:g}".replace("0.", ".")
    if claim.verdict == UNTOLD:
        return (
            f"Whether clearer context helps or harms objects {way} cannot be told from {pictures} "
            "pictures"
        )
    more = ", beyond the controls" if claim.verdict == HELPS else ""
    return f"Clearer context {claim.verdict} objects {way}{more}; {pictures} pictures"


def _terms(part: Part) -> str:
    text = f"change of their error {part.change}"
    plain = part.least == TRUE or part.verdict == HARMS
    return text if plain else f"{text}, {_beyond(part)}"


def _beyond(part: Part) -> str:
    what = "beyond" if part.least in BEATEN else "with"
    return f"{what} the control {part.least} {part.beyond}"


def _short(part: Part) -> str:
    """A change, and whether it may be called help."""
    text = str(part.change)
    if part.verdict == HELPS:
        return text if part.least == TRUE else f"{text}, {_beyond(part)}"
    if part.change.high < 0:
        return f"{text}, but no help is claimed: {_beyond(part)}"
    return text if part.verdict == HARMS else f"{text}, which tells nothing"


def _percent(value: float) -> str:
    return f"{100 * value:+.1f}%" if math.isfinite(value) else "?"
