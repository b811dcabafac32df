"""What every backend is given and gives."""

from __future__ import annotations

import importlib
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import numpy as np
from PIL import Image

from asyndm.core.settings import SettingsError
from asyndm.scenes.world import DEFAULT_WORLD

from ..adaptive import Glimpse
from ..methods import Method
from ..prompt_sets import Prompt

# kind -> module:class; loaded when it is asked for
BACKENDS = {
    "embedded": "embedded:Embedded",
    "diffusers": "diffusers:Diffusers",
    "webui": "webui:WebUI",
    "images": "images:Images",
}
# options that some backends alone read
READ_BY = {
    "device": ("embedded", "diffusers"),
    "offload": ("diffusers",),
    "config": ("diffusers",),
}


@dataclass(frozen=True)
class Setup:
    """What all methods of a run share.

    Attributes:
        steps, cfg: of methods that do not name their own.
        rule, schedule: the sampler and its noise levels, by the backend's names.
        size: (width, height) in pixels; None = the model's own.
        precision: of the network.
        coupling: of the embedded model, see ``bench scenes``.
        options: further ones of one backend; they do not change pictures.
    """

    steps: int = 25
    cfg: float | None = None
    rule: str | None = None
    schedule: str | None = None
    size: tuple[int, int] | None = None
    precision: str = "float32"
    coupling: float = 1.0
    options: dict[str, Any] = field(default_factory=dict, compare=False)

    def as_dict(self) -> dict[str, Any]:
        """What pictures depend on."""
        values = asdict(replace(self, options={}))
        del values["options"]
        return values


@dataclass(frozen=True)
class Job:
    """One picture to draw."""

    method: Method
    prompt: Prompt
    seed: int


@dataclass(frozen=True)
class Drawn:
    """One picture, and what was counted while it was drawn.

    Attributes:
        rows: of the network; None where the backend cannot count them.
        seconds: its share of its batch's.
        w_eff: effective guidance; None where it has none.
        notes: what the backend said, a line each.
        mask: [h, w] within 0 and 1, the share of the steps in which a pixel was object.
        adaptive: the k it was drawn at, and what that is of; None = its method has one k for all.
    """

    image: Image.Image
    rows: int | None
    seconds: float
    w_eff: float | None = None
    notes: tuple[str, ...] = ()
    mask: np.ndarray | None = None
    adaptive: dict[str, float] | None = None


class Backend:
    """Draws pictures.

    Attributes:
        setup: of the run, with the backend's own defaults filled in.
        batch: pictures that are drawn at once.
        scores: those that are asked for where nobody says which; the first is what tests are about.
    """

    setup: Setup
    batch = 1
    scores: tuple[str, ...] = ("clipscore", "imagereward", "saturation", "contrast", "noise")

    def identity(self) -> dict[str, Any]:
        """What of the model pictures depend on: a name, and a hash where there is one."""
        raise NotImplementedError

    def check(self, methods: list[Method], prompts: list[Prompt]) -> None:
        """Refuse what cannot be drawn, before the first picture.

        Raises:
            SettingsError: the first prompt or method that cannot be read, in one line.
        """

    def draw(self, jobs: list[Job]) -> list[Drawn]:
        """Pictures of one method.

        Raises:
            SettingsError: they cannot be drawn, in one line.
        """
        raise NotImplementedError

    def glimpse(self, jobs: list[Job]) -> list[Glimpse]:
        """What can be known of pictures of one method before they are drawn.

        Raises:
            SettingsError: this backend cannot tell the share of the mask.
        """
        raise SettingsError(CANNOT_TELL)


CANNOT_TELL = (
    "methods: adaptive: this backend cannot tell what share of a picture the mask has after three "
    "steps; take embedded or diffusers:PATH, or leave adaptive out."
)


def of_world(text: str, world: str | None) -> str:
    """A backend as a folder keeps it: the embedded model by its world, so that it stays the same.

    Args:
        world: as it was asked for; None = the default one.

    Raises:
        SettingsError: the backend has no world, or names one itself.
    """
    if text == "embedded":
        return f"{text}:{world or DEFAULT_WORLD}"
    if world is not None and text != f"embedded:{world}":
        kind, _, where = text.partition(":")
        why = f"names {where} itself" if kind == "embedded" else "does not read it"
        raise SettingsError(f"world: the backend {kind} {why}; leave it out.")
    return text


def open_backend(text: str, setup: Setup) -> Backend:
    """The backend written ``KIND`` or ``KIND:WHERE``.

    Raises:
        SettingsError: no such kind, or it cannot be opened.
    """
    kind, _, where = text.partition(":")
    if kind not in BACKENDS:
        raise SettingsError(f"backend: {kind!r} is unknown; choose of {', '.join(BACKENDS)}.")
    module, _, name = BACKENDS[kind].partition(":")
    made = importlib.import_module(f"asyndm.bench.alignment.backends.{module}")
    backend = getattr(made, name)(where, setup)
    unread = [n for n, kinds in READ_BY.items() if setup.options.get(n) and kind not in kinds]
    if setup.coupling != Setup.coupling and kind != "embedded":
        unread.append("coupling")
    if unread:
        raise SettingsError(f"{unread[0]}: the backend {kind} does not read it; leave it out.")
    return backend
