"""Methods as one writes them: ``sync``, ``cfg:w=4``, ``asyndm:k=.7``, ``asyndm+pag:k=.7,g=1``.

Names before the colon are a clock, a guidance, or both joined by ``+``; values after it are short
names (:data:`SHORT`) or any setting. ``k=.3|.5|.7`` stands for three methods. In
``objects={1}>{2}`` the numbers stand for the objects found in each prompt. ``adaptive`` is asyndm
with a k for each picture, see :mod:`.adaptive`.
"""

from __future__ import annotations

import difflib
import itertools
import re
import typing
from dataclasses import asdict, dataclass, replace
from typing import Any

from asyndm.core.settings import (
    GUIDANCES,
    WEBUI_ONLY,
    Settings,
    SettingsError,
    check_number,
    check_whole,
)
from asyndm.core.words import auto_objects, read_expression
from asyndm.guidance import methods as ways

from . import adaptive

ADAPTIVE = "adaptive"
# name -> (clock, settings). "oracle": the mask is where the scene checker sees objects.
CLOCKS: dict[str, tuple[str, dict[str, Any]]] = {
    "sync": ("synchronous", {}),
    "synchronous": ("synchronous", {}),
    "concave": ("concave", {}),
    "asyndm": ("asynchronous", {}),
    "fixed": ("asynchronous", {"mask_source": "fixed"}),
    "oracle": ("oracle", {}),
    ADAPTIVE: ("asynchronous", {}),
}
_MORE_GUIDANCE: dict[str, dict[str, Any]] = {
    "z-sampling": {"zigzag": 1.0},
    "interval": {},
}
SHORT = {
    "k": "curvature",
    "g": "perturbed_scale",
    "blur": "seg_blur",
    "lambda": "cfgpp_lambda",
    "low": "interval_low",
    "high": "interval_high",
    "up": "zigzag_up",
    "mask": "mask_source",
}
# What only a clock of an object's own reads, and what the concave one reads as well.
_OF_MASKS = (
    *("objects", "threshold", "mask_source", "first_step", "smoothing", "soft", "start", "end"),
)
_OF_CLOCKS = ("curve", "curvature", "origin", "norms", *_OF_MASKS)
FINISHED = "finished"  # the "clock" of pictures that are there
_NAMES = re.compile(r"cfg\+\+w?|[^+]+")
_PLACE = re.compile(r"\{([^{}]*)\}")  # of an object found in the prompt


@dataclass(frozen=True)
class Method:
    """One method with its settings.

    Attributes:
        text: as it was written, one method (no alternatives).
        family: its name without values; settings are chosen within a family.
        clock: "synchronous", "concave", "asynchronous" or "oracle".
        settings: AsynDM's and the guidance's.
        w, steps: its own guidance scale and number of steps; None = the run's.
        grid: cells a side of the attention that masks are read from; None = 16, or a quarter.
        rule: gives each picture its k; None = all have the settings'.
    """

    text: str
    family: str
    clock: str
    settings: Settings
    w: float | None = None
    steps: int | None = None
    grid: int | None = None
    rule: adaptive.Rule | None = None

    @property
    def plain(self) -> bool:
        """Classifier-free guidance with the host's clock, and nothing else."""
        return self.clock == "synchronous" and not ways.guides(self.settings)

    @property
    def by_prompt(self) -> bool:
        """Whether its object words are not the same in all prompts."""
        return "{" in self.settings.objects

    def settings_for(self, prompt: str) -> Settings:
        """Its settings with each ``{n}`` of the object words as this prompt's n-th object.

        A prompt with fewer objects than that has the automatic choice.
        """
        if not self.by_prompt:
            return self.settings
        found = auto_objects(prompt)
        places = [int(place) for place in _PLACE.findall(self.settings.objects)]
        named = ""
        if max(places) <= len(found):
            named = _PLACE.sub(lambda at: found[int(at[1]) - 1], self.settings.objects)
        return replace(self.settings, objects=named)

    @property
    def zigzags(self) -> bool:
        return self.settings.zigzag > 0

    def at(self, k: float) -> Method:
        """The method that a picture of this strength is drawn by, where the rule gives it."""
        names, _, rest = self.text.partition(":")
        kept = [part for part in rest.split(",") if part.partition("=")[0] not in adaptive.VALUES]
        names = "+".join("asyndm" if name == ADAPTIVE else name for name in names.split("+"))
        return parse(f"{names}:{','.join([f'k={k:g}', *kept])}")[0]

    def canonical(self, w: float, steps: int) -> dict[str, Any]:
        """What the pictures depend on: the same for two ways of writing one method."""
        changed = {k: v for k, v in self.settings.changed().items() if k != "enabled"}
        if self.clock == FINISHED:
            return {"clock": FINISHED, "name": self.text}
        return {
            "clock": self.clock,
            "settings": changed,
            **({} if self.grid is None else {"grid": self.grid}),
            **({} if self.rule is None else {ADAPTIVE: asdict(self.rule)}),
            "w": float(w if self.w is None else self.w),
            "steps": int(steps if self.steps is None else self.steps),
        }


def parse(text: str) -> list[Method]:
    """The methods one text stands for.

    Raises:
        SettingsError: an unknown name, a value out of range, or one that would change nothing.
    """
    names, _, rest = text.strip().partition(":")
    parts = [part.strip().lower() for part in _NAMES.findall(names)]
    clocks = [part for part in parts if part in CLOCKS]
    guidances = [part for part in parts if part not in CLOCKS]
    for name in guidances:
        if name not in GUIDANCES and name not in _MORE_GUIDANCE:
            raise SettingsError(f"methods: {name!r} is unknown; {_likely(name)}.")
    if not parts or len(clocks) > 1 or len([g for g in guidances if g in GUIDANCES]) > 1:
        raise SettingsError(
            f"methods: {text!r} is not one clock ({', '.join(CLOCKS)}) and one guidance "
            f"({', '.join((*GUIDANCES, *_MORE_GUIDANCE))}) joined by '+'."
        )
    choices = []
    for part in filter(None, (piece.strip() for piece in rest.split(","))):
        name, equals, value = part.partition("=")
        if not equals or not value:
            raise SettingsError(f"methods: {part!r} in {text!r} is not of the form name=value.")
        choices.append([(name.strip(), one.strip()) for one in value.split("|")])
    return [_one(parts, clocks, guidances, dict(values)) for values in itertools.product(*choices)]


def finished(name: str) -> Method:
    """A method of which only the pictures are known."""
    return Method(name, name, FINISHED, Settings())


def parse_all(texts: list[str]) -> list[Method]:
    """The methods of several texts, each once.

    Raises:
        SettingsError: see :func:`parse`.
    """
    found = [method for text in texts for method in parse(text)]
    return list({method.text: method for method in found}.values())


def _one(
    parts: list[str], clocks: list[str], guidances: list[str], values: dict[str, str]
) -> Method:
    clock, settings = CLOCKS[clocks[0]] if clocks else ("synchronous", {})
    settings = dict(settings)
    for name in guidances:
        settings |= {"guidance": name} if name in GUIDANCES else _MORE_GUIDANCE[name]
    text = "+".join(parts)
    if values:
        text += ":" + ",".join(f"{name}={value}" for name, value in values.items())
    types = typing.get_type_hints(Settings)
    rule = None
    if ADAPTIVE in clocks:
        rule = adaptive.read_rule(values, f"methods: {text}")
        values = {name: value for name, value in values.items() if name not in adaptive.VALUES}
        if {"k", "curvature"} & {*values}:
            raise SettingsError(f"methods: {text}: k is what its rule gives; leave it out.")
    w, steps, grid = (values.pop(name, None) for name in ("w", "steps", "grid"))
    for name, value in values.items():
        full = SHORT.get(name, name)
        if full not in types or full in (*WEBUI_ONLY, "enabled"):
            known = ["w", "steps", "grid", *SHORT, *(n for n in types if n not in WEBUI_ONLY)]
            raise SettingsError(f"methods: {text}: no setting {name!r}; {_likely(name, known)}.")
        is_switch = types[full] is bool and value in ("true", "false")
        settings[full] = value == "true" if is_switch else value
    try:
        made = Settings.from_dict({**settings, "enabled": True})
        ways.check(made)
        idle = ways.idle(made)
    except SettingsError as error:
        raise SettingsError(f"methods: {text}: {error}") from None
    for name in values:
        full = SHORT.get(name, name)
        unread = _OF_CLOCKS if clock == "synchronous" else _OF_MASKS if clock == "concave" else ()
        if full in unread:
            idle.append(f"{full}: the {clock} clock does not read it.")
    if "interval" in guidances and not ways.interval_of(made).limits:
        idle.append("interval: it has no ends; write e.g. interval:low=.5,high=5.")
    if grid is not None and (clock != "asynchronous" or made.mask_source == "given"):
        idle.append("grid: no mask is read from attention.")
    if w is not None and made.guidance in ways.OWNERS["cfgpp_lambda"]:
        idle.append(f"w: {made.guidance} is guided by lambda.")
    if idle:
        raise SettingsError(f"methods: {text}: {idle[0]}")
    for place in _PLACE.findall(made.objects):
        check_whole(f"methods: {text}: the object", place, 1, 9)
    try:
        read_expression(_PLACE.sub(lambda at: f"object{at[1]}", made.objects))
    except SettingsError as error:
        raise SettingsError(f"methods: {text}: {error}") from None
    return Method(
        text,
        "+".join(parts),
        clock,
        replace(made, enabled=True),
        None if w is None else check_number(f"methods: {text}: w", w, 0, 30),
        None if steps is None else check_whole(f"methods: {text}: steps", steps, 1, 1000),
        None if grid is None else check_whole(f"methods: {text}: grid", grid, 1, 4096),
        rule,
    )


def _likely(name: str, known: typing.Iterable[str] = (*CLOCKS, *GUIDANCES, *_MORE_GUIDANCE)) -> str:
    known = list(dict.fromkeys(known))
    near = difflib.get_close_matches(name, known, 3)
    return f"did you mean {' or '.join(near)}?"[:-1] if near else f"choose of {', '.join(known)}"
