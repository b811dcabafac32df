"""What can be tuned: an arm's parameters, and the method they stand for."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from asyndm.bench.alignment import adaptive
from asyndm.bench.alignment.methods import ADAPTIVE, SHORT, Method, parse
from asyndm.core.profile import Profile
from asyndm.core.settings import CHOICES, SettingsError, check_number, check_whole

USUAL_ARMS = ("learned", "constant", "cfg", "shuffled")
ARMS = (*USUAL_ARMS, ADAPTIVE)
PROFILED = ("learned", "shuffled")  # the arms whose clock is a profile
LEAST_KNOTS, MOST_KNOTS = 4, 6
_GUIDANCE = (1.0, 15.0)
# Of the adaptive rule: the strength of two objects and the usual share, more of it for each further
# object, and for each standard deviation of the share.
_RULE = {"a": (0.0, 1.0), "b": (-0.3, 0.3), "c": (-0.3, 0.3)}
# Other settings that may be tuned with the clock: (low, high), or choices.
ALSO: dict[str, tuple] = {
    "threshold": (0.6, 1.6),
    "smoothing": (0.0, 0.9),
    "start": (0.0, 0.4),
    "end": (0.6, 1.0),
    "soft": (False, True),
    "first_step": CHOICES["first_step"],
    "norms": CHOICES["norms"],
    "softmax": CHOICES["softmax"],
    "text_timestep": CHOICES["text_timestep"],
    "w": _GUIDANCE,
}


@dataclass(frozen=True)
class Space:
    """The parameters of all arms.

    Attributes:
        knots: of a profile, at equal distances of the background's log-snr.
        low, high: the first's and the last's.
        lag: the most that an object's log-snr lies behind.
        also: other settings, of :data:`ALSO`.

    Raises:
        SettingsError: a value out of range.
    """

    knots: int = 5
    low: float = -5.0
    high: float = 5.0
    lag: float = 4.0
    also: tuple[str, ...] = ()
    _places: tuple[float, ...] = field(init=False, default=(), compare=False)

    def __post_init__(self) -> None:
        check_whole("knots", self.knots, LEAST_KNOTS, MOST_KNOTS)
        check_number("low", self.low, -15, 15)
        check_number("high", self.high, self.low + 1, 20)
        check_number("lag", self.lag, 0.1, 10)
        for name in self.also:
            if name not in ALSO:
                raise SettingsError(f"also: {name!r} is unknown; choose of {', '.join(ALSO)}.")
        places = np.linspace(self.low, self.high, self.knots).round(4).tolist()
        object.__setattr__(self, "_places", tuple(places))

    def ask(self, trial: Any, arm: str) -> dict[str, Any]:
        """A trial's parameters by name; ``trial`` as Optuna has it."""
        if arm == "cfg":
            return {"w": trial.suggest_float("w", *_GUIDANCE, log=True)}
        values: dict[str, Any] = {}
        if arm == "constant":
            values["k"] = trial.suggest_float("k", 0.0, 1.0)
        elif arm == ADAPTIVE:
            values |= {name: trial.suggest_float(name, *ends) for name, ends in _RULE.items()}
        else:
            for number in range(self.knots):
                name = f"lag {number + 1}"
                values[name] = trial.suggest_float(name, 0.0, self.lag)
        for name in self.also:
            ends = ALSO[name]
            if isinstance(ends[0], float):
                values[name] = trial.suggest_float(name, *ends, log=name == "w")
            else:
                values[name] = trial.suggest_categorical(name, ends)
        return values

    def first(self, arm: str, cfg: float) -> dict[str, Any]:
        """What an arm tries first: in the middle of what is known to be of use."""
        if arm == "cfg":
            return {"w": float(np.clip(cfg, *_GUIDANCE))}
        if arm == "constant":
            return {"k": 0.5}
        if arm == ADAPTIVE:  # the constant's
            return {"a": 0.5, "b": 0.0, "c": 0.0}
        return {f"lag {number + 1}": min(1.0, self.lag) for number in range(self.knots)}

    def profile(self, values: dict[str, Any], checkpoint: str = "") -> Profile:
        """Of an arm's parameters: objects never run back, so a lag grows as the background falls.

        Its name tells its knots.
        """
        lags = [max(0.0, float(values[f"lag {number + 1}"])) for number in range(self.knots)]
        for number in range(1, self.knots):
            gap = self._places[number] - self._places[number - 1]
            lags[number] = min(lags[number], lags[number - 1] + gap)
        knots = tuple((own, round(own - lag, 4)) for own, lag in zip(self._places, lags))
        mark = hashlib.sha256(repr(knots).encode()).hexdigest()[:10]
        return Profile(knots, checkpoint, f"tune-{mark}")

    def method(
        self,
        arm: str,
        values: dict[str, Any],
        profiles: Path,
        checkpoint: str = "",
        usual: tuple[float, float] = (0.0, 1.0),
    ) -> Method:
        """The method of an arm's parameters; a profile is written to its folder.

        Args:
            usual: (centre, spread) of the share, which the adaptive arm's rule is relative to.

        Raises:
            SettingsError: the profile cannot be written.
        """
        if arm == "cfg":
            return parse(f"cfg:w={values['w']:.4g}")[0]
        parts = [f"k={values['k']:.4g}"] if arm == "constant" else []
        if arm in PROFILED:
            profile = self.profile(values, checkpoint)
            save(profile, profiles)
            parts = ["curve=learned", f"profile={profile.name}", "k=1"]
        if arm == ADAPTIVE:
            own = {name: values[name] for name in _RULE}
            parts = [adaptive.said(adaptive.Rule(**own, centre=usual[0], spread=usual[1]))]
        parts += [f"{name}={_said(values[name])}" for name in self.also if name in values]
        return parse(f"{ADAPTIVE if arm == ADAPTIVE else 'asyndm'}:{','.join(parts)}")[0]


def save(profile: Profile, folder: Path, name: str | None = None) -> Path:
    """Write a profile, whole or not at all; returns its file.

    Raises:
        SettingsError: it cannot be written.
    """
    from asyndm.bench.alignment.store import written

    path = folder / f"{name or profile.name}.json"
    written(path, profile.to_json().encode())
    return path


def settings_of(method: Method) -> dict[str, Any]:
    """A method's settings as a preset keeps them; its own guidance scale is no setting."""
    return {n: v for n, v in method.settings.changed().items() if n != "enabled"}


def _said(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    return f"{value:.4g}" if isinstance(value, float) else str(value)


assert not set(ALSO) & set(SHORT)  # they are written by their own names
