"""A learned clock: a profile of how far objects lag, at every noise level of the background.

A profile is a curve through a few knots (background's log-snr, object's log-snr): an object pixel
that was one from the start is to be so noisy where the background is so noisy. In noise levels, not
in steps, it holds for any number of steps, any schedule, img2img and the hires pass; what the clock
takes, a rate kappa for every interval, is derived when a run starts.

With log-snr = 2 log(signal / noise): of a variance-exploding sigma it is -2 log sigma, of a
rectified flow's 2 log((1 - sigma) / sigma).
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from asyndm.core.presets import NAME
from asyndm.core.settings import SettingsError, check_number
from asyndm.core.sigma_scale import SigmaScale

MOST_BYTES, LEAST_KNOTS, MOST_KNOTS = 16_384, 2, 32
FOLDER = "asyndm-profiles"  # in the present folder, or a WebUI's data
LOWEST, HIGHEST = -20.0, 20.0  # log-snr; Stable Diffusion's timesteps lie between -5.4 and 7.1


@dataclass(frozen=True)
class Profile:
    """A profile and whose it is.

    Attributes:
        knots: (background's log-snr, object's), rising in the first; straight lines between them,
            and beyond them the first and the last lag.
        checkpoint: hash of the checkpoint it was learned on, "" = unknown.
        name: of its file.

    Raises:
        SettingsError: knots that are no such curve; objects are never ahead of the background.
    """

    knots: tuple[tuple[float, float], ...]
    checkpoint: str = ""
    name: str = ""

    def __post_init__(self) -> None:
        say = f"profile {self.name!r}: " if self.name else "profile: "
        if not LEAST_KNOTS <= len(self.knots) <= MOST_KNOTS:
            raise SettingsError(
                f"{say}{len(self.knots)} knots; give {LEAST_KNOTS} to {MOST_KNOTS}."
            )
        for number, pair in enumerate(self.knots, 1):
            if not isinstance(pair, Sequence) or isinstance(pair, str) or len(pair) != 2:
                raise SettingsError(f"{say}knot {number} is no pair of two log-snr.")
            for value in pair:
                check_number(f"{say}knot {number}", value, LOWEST, HIGHEST)
            if pair[1] > pair[0]:
                raise SettingsError(f"{say}knot {number} has the object ahead of the background.")
        if any(a[0] >= b[0] or a[1] > b[1] for a, b in zip(self.knots, self.knots[1:])):
            raise SettingsError(f"{say}the log-snr of its knots must rise.")

    def object_at(self, background: float) -> float:
        """The object's log-snr where the background's is ``background``."""
        own, lags = zip(*((b, b - o) for b, o in self.knots))
        return background - float(np.interp(background, own, lags))

    def kappas(self, scale: SigmaScale) -> tuple[float, ...]:
        """The rate of every interval of a run, within [-1, 1].

        As an object pixel from the start follows the profile: where the profile asks for more than
        a rate of 1 can do, or for less than one of -1, it comes as near as it can.

        Args:
            scale: the run's noise levels.
        """
        n, rates, pace = scale.intervals, [], 1.0
        clocks = torch.linspace(0, n, 64 * max(n, 1) + 1, dtype=torch.float64)
        snr = np.array([log_snr(s, scale) for s in scale.at(clocks).tolist()])
        for step in range(n - 1):
            left = n - step - 1
            wanted = self.object_at(log_snr(scale.sigmas[step + 1], scale))
            clock = float(np.interp(wanted, snr, clocks.numpy()))
            rate = n * (min(max((n - clock) / left, 1.0), 2.0) - pace)
            rates.append(min(max(rate, -1.0), 1.0))
            pace = max(1.0, pace + rates[-1] / n)
        return (*rates, *([0.0] if n else []))  # behind the last interval all have arrived

    @property
    def told(self) -> str:
        """Its name and a mark of its knots: a file of that name may be another one later."""
        mark = hashlib.sha256(repr(self.knots).encode()).hexdigest()[:8]
        return f"{self.name} {mark}"

    def of_another(self, checkpoint: str) -> bool:
        """Whether it was surely learned on another checkpoint than the one of this hash."""
        a, b = self.checkpoint.lower(), checkpoint.lower()
        known = min(len(a), len(b)) >= 8
        return known and not (a.startswith(b) or b.startswith(a))

    def to_json(self) -> str:
        """The text of its file."""
        values = {"checkpoint": self.checkpoint, "knots": [list(pair) for pair in self.knots]}
        return json.dumps(values, indent=1) + "\n"


def log_snr(sigma: float, scale: SigmaScale) -> float:
    """2 log(signal / noise) of a noise level of a run."""
    if scale.parametrisation.flow:
        inside = min(max(sigma, 1e-9), 1 - 1e-9)
        return 2 * math.log((1 - inside) / inside)
    return -2 * math.log(max(sigma, 1e-9))


class Profiles:
    """Where profiles lie.

    Attributes:
        folder: of the files ``NAME.json``; a WebUI sets its own.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def read(self, name: Any) -> Profile:
        """See :func:`read_profile`."""
        return read_profile(name, self.folder)


PROFILES = Profiles(Path(FOLDER))


def read_profile(name: Any, folder: Path) -> Profile:
    """A profile by its name; nothing that is a path can be one.

    Args:
        folder: where ``NAME.json`` lies.

    Raises:
        SettingsError: there is none of that name, or its file cannot be used; in one line.
    """
    if not isinstance(name, str) or not name:
        raise SettingsError("profile: the learned curve needs one; name a file of its folder.")
    known = sorted(p.stem for p in folder.glob("*.json")) if folder.is_dir() else []
    if not NAME.fullmatch(name) or name not in known:
        there = f"choose one of {', '.join(known[:20])}" if known else f"there is none in {folder}"
        raise SettingsError(f"profile: {name[:60]!r} is unknown; {there}.")
    try:
        with (folder / f"{name}.json").open("rb") as file:
            data = file.read(MOST_BYTES + 1)
        if len(data) > MOST_BYTES:
            raise ValueError(f"more than {MOST_BYTES} bytes")
        values = json.loads(data)
        knots = tuple(tuple(pair) for pair in values["knots"])
        checkpoint = values.get("checkpoint", "")
        if not isinstance(checkpoint, str) or len(checkpoint) > 100:
            raise ValueError("checkpoint is no hash")
    except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        why = " ".join(str(error).split())[:80] or type(error).__name__
        raise SettingsError(f"profile {name!r}: its file cannot be used ({why}).") from None
    return Profile(knots, checkpoint, name)
