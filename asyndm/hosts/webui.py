"""What every WebUI shares: its script arguments, its samplers' twins, its gallery.

Knows the WebUI's conventions but imports nothing of a host.
"""

from __future__ import annotations

import base64
import binascii
import dataclasses
import io
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from PIL import Image

from asyndm.core.history import Frame
from asyndm.core.settings import CHOICES, RANGES, Settings, SettingsError
from asyndm.core.words import listed, short
from asyndm.hosts.infotext import NOTE_KEY
from asyndm.page.controls import LATER, POSITIONAL, WEBUI_FIELDS

log = logging.getLogger("asyndm")

TITLE = "AsynDM"
# On the processing object: the plan of the run in progress.
ATTRIBUTE = "asyndm_plan"


@dataclass(frozen=True)
class SamplerFace:
    """A sampler of ours: its name in the host, its rule, the host's sampler it is the twin of."""

    name: str
    rule: str
    twin: str


# No name may end in a space and a schedule's name: the host would cut it there.
SAMPLERS = (
    SamplerFace("AsynDM", "ddpm", "Euler a"),
    SamplerFace("AsynDM Euler", "euler", "Euler"),
    SamplerFace("AsynDM DPM++ 2M", "dpmpp_2m", "DPM++ 2M"),
)
_OWN = {face.name: face for face in SAMPLERS}
# Hosts before schedule types name the same sampler once more for every schedule.
_TWINS = {face.twin: face for face in SAMPLERS} | {"DPM++ 2M Karras": SAMPLERS[2]}


def is_own(sampler: str) -> bool:
    """True for a sampler of ours."""
    return sampler in _OWN


def face_for(sampler: str) -> tuple[SamplerFace, bool]:
    """(our sampler for the one the user selected, whether it is its equal)."""
    face = _OWN.get(sampler) or _TWINS.get(sampler)
    if sampler == "DDIM":  # the host's is another loop, with Euler's result
        face = _OWN["AsynDM Euler"]
    return (face, True) if face else (SAMPLERS[0], False)


def is_twin(sampler: str) -> bool:
    """True for a sampler of the host's whose function ours can stand in for."""
    return sampler in _TWINS


@dataclass
class Shot:
    """What one sampling run left to look at: steps by image of the batch."""

    iteration: int
    hires: bool
    objects: str  # what was matched, in words
    frames: list[Frame]


@dataclass
class Plan:
    """What the user asked of one job, and what became of it.

    Attributes:
        settings: None where they cannot be used; then everything is synchronous.
        painted: float [H, W] within [0, 1], the mask painted or sent for mask source "given".
        notes: one line each, for the user; every line once. Those of one batch go with it.
        shots: one a sampling run, where masks are to be shown.
    """

    settings: Settings | None
    painted: np.ndarray | None = None
    notes: list[str] = field(default_factory=list)
    shots: list[Shot] = field(default_factory=list)
    _of_job: list[str] | None = None

    def begin_batch(self) -> None:
        """Forget what was said of the batch before; what was said of the job stays."""
        if self._of_job is None:
            self._of_job = list(self.notes)
        self.notes[:] = self._of_job

    @property
    def on(self) -> bool:
        return self.settings is not None and self.settings.enabled


def note(p: Any, plan: Plan, text: str) -> None:
    """One line for the user: in the log, below the image and in its parameters.

    Args:
        p: the host's processing object.
        plan: of its job.
        text: a sentence.
    """
    line = f"AsynDM: {text}"
    if line not in plan.notes:
        plan.notes.append(line)
    announce(p, plan)


def announce(p: Any, plan: Plan) -> None:
    """Say the plan's notes where a user, an API client and a reader of the log will see them."""
    for line in plan.notes:
        if line not in p.comments:
            log.warning(line)
            p.comment(line)
    notes = [line.removeprefix("AsynDM: ") for line in plan.notes]
    if notes:
        p.extra_generation_params[NOTE_KEY] = " ".join(notes)


def make_plan(
    arguments: Sequence[Any],
    sampler: str,
    axes: Mapping[str, Any] | None = None,
    mask_parts: int = 1,
) -> Plan:
    """The plan for a job.

    Args:
        arguments: of the script, see :func:`read_arguments`.
        sampler: that the user selected; one of ours means on.
        axes: what an X/Y/Z cell changes.
        mask_parts: how many of the arguments are the mask's.

    Returns:
        A plan; where the input cannot be used it has no settings, and a note that says why.
    """
    try:
        settings, painted = read_arguments(arguments, mask_parts)
        axes = dict(axes or {})
        settings = replace(settings, **axes) if axes else settings
        if is_own(sampler) and "enabled" not in axes:
            settings = replace(settings, enabled=True)
        if settings.lead and settings.origin == "paper":
            raise SettingsError("lead: the paper's clock cannot lead; set 'Clock starts' to host.")
        return Plan(settings, painted)
    except SettingsError as error:
        return Plan(None, notes=[f"AsynDM: {error} The image is synchronous."])


def read_arguments(
    arguments: Sequence[Any], mask_parts: int = 1
) -> tuple[Settings, np.ndarray | None]:
    """Settings and painted mask from a script's arguments.

    A dictionary at the first place is the API's form: settings by name, and "mask", a picture
    in base64 (white = object). It means on unless it says otherwise. Any other list holds values in
    places that never change: :data:`POSITIONAL`, the mask, then the settings that came later. It
    may end early; what is missing has its default.

    Args:
        arguments: of the script.
        mask_parts: how many of them are the mask's, which the host's canvas tells.

    Raises:
        SettingsError: something that cannot be used, in one line.
    """
    arguments = list(arguments)
    if arguments and isinstance(arguments[0], dict):
        values = dict(arguments[0])
        mask = values.pop("mask", None)
        values.setdefault("enabled", True)
        if "eta" in values:
            raise SettingsError("eta: set the WebUI's own Eta instead.")
        return Settings.from_dict(values), decode_mask(mask)
    first = len(POSITIONAL)
    values, mask = arguments[:first], arguments[first : first + mask_parts]
    later = arguments[first + mask_parts :]
    named = dict(zip(POSITIONAL, values)) | dict(zip(LATER, later))
    settings = Settings.from_dict(named)
    # A picture left in the accordion is nobody's business while another mask source is chosen.
    return settings, painted_mask(mask) if settings.mask_source == "given" else None


def painted_mask(values: Sequence[Any]) -> np.ndarray | None:
    """The mask of the accordion's canvas as float [H, W] within [0, 1], or None.

    Args:
        values: Gradio 3's sketch, ``{"image": picture, "mask": strokes}``; or the background and
            the foreground of Forge's canvas; or one picture, see :func:`decode_mask`. Where
            nothing is painted the picture itself is the mask, if it is black and white.

    Raises:
        SettingsError: nothing is painted on a picture in colours, or :func:`decode_mask` refuses.
    """
    picture, strokes = (*values, None, None)[:2]
    if isinstance(picture, dict):
        picture, strokes = picture.get("image"), picture.get("mask")
    elif len(values) < 2:
        return decode_mask(picture)
    painted = _strokes(strokes)
    if painted is not None:
        return painted
    if isinstance(picture, Image.Image):
        colours = np.asarray(picture.convert("RGB"), int)
        if (np.ptp(colours, axis=2) > 40).mean() > 0.01:
            raise SettingsError("mask: nothing is painted on the picture; paint over the object.")
    return decode_mask(picture)


def _strokes(drawn: Any) -> np.ndarray | None:
    """What a brush left, as 0 and 1: by opacity, or by brightness on an opaque ground."""
    if not isinstance(drawn, Image.Image):
        return None
    alpha = np.asarray(drawn.convert("RGBA"))[..., 3]
    mask = alpha if alpha.min() < 255 else np.asarray(drawn.convert("L"))
    return (mask > 127).astype(float) if (mask > 127).any() else None


def schema() -> dict[str, Any]:
    """JSON schema (draft 2020-12) of the dictionary that :func:`read_arguments` takes."""
    properties: dict[str, Any] = {}
    for setting in dataclasses.fields(Settings):
        if setting.name not in WEBUI_FIELDS:
            continue
        default = True if setting.name == "enabled" else setting.default
        if setting.name in CHOICES:
            described = {"enum": list(CHOICES[setting.name])}
        elif setting.name in RANGES:
            low, high = RANGES[setting.name]
            described = {"type": "number", "minimum": low, "maximum": high}
        else:
            described = {"type": "boolean" if isinstance(default, bool) else "string"}
        properties[setting.name] = {**described, "default": default}
    properties["mask"] = {"type": "string", "contentEncoding": "base64"}
    return {"type": "object", "properties": properties, "additionalProperties": False}


def decode_mask(value: Any) -> np.ndarray | None:
    """A mask as float [H, W] within [0, 1], or None.

    Args:
        value: None or "", a picture in base64 (also as a data URL), a PIL image, an array.

    Raises:
        SettingsError: no picture, or an empty one.
    """
    if value is None or (isinstance(value, str) and not value.strip()):
        return None
    if isinstance(value, str):
        try:
            data = base64.b64decode(value.partition("base64,")[2] or value, validate=True)
            value = Image.open(io.BytesIO(data))
            value.load()
        except (binascii.Error, ValueError, OSError, Image.DecompressionBombError):
            raise SettingsError("mask: this is not a picture in base64 (PNG or JPEG).") from None
    if isinstance(value, Image.Image):
        flat = Image.new("RGBA", value.size, "black")
        flat.alpha_composite(value.convert("RGBA"))
        value = np.asarray(flat.convert("L")) / 255
    try:
        mask = np.asarray(value, float)
    except (TypeError, ValueError):
        mask = np.zeros(0)
    if mask.ndim != 2 or not mask.size or not 0 <= mask.min() <= mask.max() <= 1:
        raise SettingsError("mask: a picture is needed, white where the object is.")
    if not mask.any():
        raise SettingsError("mask: it is empty; paint where the object shall be.")
    return mask


def mask_cells(painted: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """bool [H, W] at the latents' size: cells of which at least half is painted.

    A fine stroke that covers no half cell takes the most covered one, rather than nothing.
    """
    picture = Image.fromarray(np.uint8(np.round(painted * 255)))
    cells = np.asarray(picture.resize(size[::-1], Image.Resampling.BOX))
    return cells >= 128 if (cells >= 128).any() else cells == cells.max()


def describe_match(matched: Mapping[str, Sequence[int]]) -> str:
    """``dog (token 5), red cat (tokens 8, 9)``."""
    return listed(
        [
            f"{short(word)} (token{'s' if len(at) > 1 else ''} {listed(list(map(str, at)), 60)})"
            for word, at in matched.items()
        ],
        240,
    )
