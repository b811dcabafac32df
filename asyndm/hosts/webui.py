"""What every WebUI shares: its script arguments, its samplers' twins, its gallery.

Knows the WebUI's conventions but imports nothing of a host.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from PIL import Image

from asyndm.core.found import Found
from asyndm.core.given import ObjectMask, has_transparency, read_masks
from asyndm.core.given import read_mask as decode_mask
from asyndm.core.history import Frame
from asyndm.core.presets import USER
from asyndm.core.settings import LEARNED, Settings, SettingsError
from asyndm.core.words import listed, short
from asyndm.guidance import methods
from asyndm.hosts.faces import is_own
from asyndm.hosts.infotext import NOTE_KEY
from asyndm.hosts.taken import Taken
from asyndm.page.controls import LATER, POSITIONAL, WEBUI_FIELDS

log = logging.getLogger("asyndm")

TITLE = "AsynDM"
# On the processing object: the plan of the run in progress.
ATTRIBUTE = "asyndm_plan"


@dataclass
class Shot:
    """What one sampling run left to look at: steps by image of the batch."""

    iteration: int
    hires: bool
    objects: str  # what was matched, in words
    frames: list[Frame]
    guesses: dict[int, np.ndarray] = field(default_factory=dict)  # by step, uint8 [B, h, w, 3]


@dataclass
class Plan:
    """What the user asked of one job, and what became of it.

    Attributes:
        settings: None where they cannot be used; then everything is synchronous.
        painted: the masks painted or sent for mask source "given", none where nothing was.
        notes: one line each, for the user; every line once. Those of one batch go with it.
        shots: one a sampling run, where masks are to be shown.
        found: what pasted parameters tell of the words their image took.
        taken: the words that steered each image.
        outer: the job whose image an inner job repaints; notes join its parameters.
        measured: what each image's guidance cost, by its number in the job.
        curvature_set: somebody gave a curvature: the page always does, a dictionary may not.
        regions_of: the extension whose regions were the last first pass' masks, "" = none.
    """

    settings: Settings | None
    painted: tuple[ObjectMask, ...] = ()
    notes: list[str] = field(default_factory=list)
    shots: list[Shot] = field(default_factory=list)
    found: Found = Found()
    taken: Taken = field(default_factory=Taken)
    outer: Any = None
    measured: dict[int, str] = field(default_factory=dict)
    curvature_set: bool = True
    regions_of: str = ""
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
        p.extra_generation_params[NOTE_KEY] = _joined(notes)
    if plan.outer is not None:
        parameters = plan.outer.extra_generation_params
        said = str(parameters.get(NOTE_KEY, ""))
        new = [line for line in notes if line not in said]
        if new:
            parameters[NOTE_KEY] = _joined([*filter(None, [said]), *new])


_SYNCHRONOUS = " The image is synchronous."


def _joined(notes: Sequence[str], most: int = 300) -> str:
    """Notes in one line of the parameters; those without room are below the image."""
    text, end = notes[0].removesuffix(_SYNCHRONOUS), ""
    if text != notes[0]:  # what became of the image is told whatever is cut
        end = _SYNCHRONOUS
    line = short(text, most - 20 - len(end)) + end
    for number, text in enumerate(notes[1:], 1):
        if len(line) + len(text) > most - 20:
            return f"{line} And {len(notes) - number} more."
        line += f" {text}"
    return line


def is_plain(settings: Settings) -> bool:
    """Whether the settings ask for the host's own sampler and CFG alone."""
    return settings.clock == "synchronous" and not methods.guides(settings)


def is_inner(p: Any) -> bool:
    """Whether this job is one of ADetailer's, which repaint small regions of an image."""
    return bool(getattr(p, "_ad_inner", False))


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
    notes: list[str] = []
    try:
        settings, painted = read_arguments(arguments, mask_parts, axes, notes)
        # A sampler of ours means on, and so does a plot over one of our settings.
        if (is_own(sampler) or axes) and "enabled" not in (axes or {}):
            settings = replace(settings, enabled=True)
        if settings.enabled:
            methods.check(settings)
        if settings.lead and settings.origin == "paper":
            raise SettingsError("lead: the paper's clock cannot lead; set 'Clock starts' to host.")
    except SettingsError as error:
        return Plan(None, notes=[f"AsynDM: {error} The image is synchronous."])
    except Exception as error:  # nothing anybody sends may end a job
        log.exception("AsynDM: what failed while the settings were read")
        kind = type(error).__name__
        line = f"AsynDM: the settings cannot be read ({kind}, see the log). The image is "
        return Plan(None, notes=[line + "synchronous."])
    if settings.enabled:
        notes += idle_settings(settings, any(each.word for each in painted), axes or {})
    sent = arguments[0] if arguments and isinstance(arguments[0], dict) else {"curvature": None}
    given = bool({"curvature", "preset"} & {*sent, *(axes or {})})
    lines = [f"AsynDM: {line}" for line in notes]
    return Plan(settings, painted, lines, curvature_set=given)


def idle_settings(settings: Settings, words: bool = False, axes: Collection[str] = ()) -> list[str]:
    """One line for each group of settings that cannot change anything beside the others.

    Args:
        settings: of a job that is on.
        words: whether given masks have words, whose k the object words may tell.
        axes: settings that differ from cell to cell of a plot: others take what is idle here.
    """
    given, ready = settings.mask_source == "given", settings.mask_source != "dynamic"
    changed = settings.changed()
    lines = [] if "guidance" in axes else methods.idle(settings)
    if settings.clock != "asynchronous":
        idle = [name for name in _OF_CLOCKS if name in changed]
        if settings.clock == "synchronous":
            idle += [name for name in _OF_SLOWNESS if name in changed]
        if idle and "clock" not in axes:
            lines.append(f"clock: it is {settings.clock}; {', '.join(idle)}: nothing is changed.")
        return lines
    if given:
        for name in ("threshold", "objects"):
            if name in changed and not (words and name == "objects"):
                lines.append(f"{name}: a painted mask needs none; it changes nothing.")
    else:
        names = [name for name in _OF_MASKS if name in changed]
        if names:
            lines.append(f"{', '.join(names)}: only a painted mask has them; nothing is changed.")
    if ready and "smoothing" in changed:
        lines.append("smoothing: this mask stays the same in all steps; it changes nothing.")
    if "first_step" in changed and (ready or settings.start > 0):
        why = "the mask is known before" if ready else "masks do not steer yet in"
        lines.append(f"first_step: {why} the first step; it changes nothing.")
    if settings.threshold == 0 and not given:
        lines.append("threshold: 0 makes every pixel an object; no mask is left.")
    if settings.only_hires and not settings.hires:
        lines.append("only_hires: the hires pass is switched off, so no pass is asynchronous.")
    if settings.profile and settings.curve != LEARNED and "curve" not in axes:
        lines.append(f"profile: the {settings.curve} curve has none; nothing is changed.")
    if settings.curve == "linear" and settings.curvature > 0:
        lines.append("curve: a linear one is the background's own; objects are not slow.")
    return lines


# What tells pixels apart, and what slows them down.
_OF_CLOCKS = (
    *("threshold", "mask_source", "first_step", "smoothing", "soft", "mask_invert", "mask_grow"),
    *("mask_feather", "mask_colours"),
)
_OF_SLOWNESS = (
    *("objects", "curve", "curvature", "origin", "start", "end", "lead", "show_masks"),
    *("save_masks", "profile"),
)
_OF_MASKS = ("mask_invert", "mask_grow", "mask_feather", "mask_colours")


def inside_script(plan: Plan, script: str) -> None:
    """A script of the host's own takes every picture of the gallery for an image: it gets no more.

    Args:
        plan: of the job.
        script: its title, "" = none.
    """
    if script and plan.on and plan.settings.show_masks:
        plan.settings = replace(plan.settings, show_masks=False)
        how = "they are saved" if plan.settings.save_masks else "tick 'Save masks' to have files"
        plan.notes.append(
            f"AsynDM: show_masks: inside the script {script!r} no pictures of masks join the "
            f"gallery; {how}."
        )


def read_arguments(
    arguments: Sequence[Any],
    mask_parts: int = 1,
    axes: Mapping[str, Any] | None = None,
    notes: list[str] | None = None,
) -> tuple[Settings, tuple[ObjectMask, ...]]:
    """Settings and given masks from a script's arguments.

    A dictionary at the first place is the API's form: settings by name, and "mask", a picture
    in base64 (white = object), or "masks", a list of them, and "preset", a name. It means on unless
    it says otherwise, and a mask that is sent means mask source "given". Any other list holds
    values in places that never change: :data:`POSITIONAL`, the mask, then the settings that came
    later. It may end early; what is missing has its default.

    Args:
        arguments: of the script.
        mask_parts: how many of them are the mask's, which the host's canvas tells.
        axes: settings an X/Y/Z cell changes; "preset" is one of them.
        notes: lines for the user are added here.

    Raises:
        SettingsError: something that cannot be used, in one line.
    """
    arguments, axes = list(arguments), dict(axes or {})
    notes = [] if notes is None else notes
    if arguments and isinstance(arguments[0], dict):
        values = dict(arguments[0])
        mask, masks = values.pop("mask", None), values.pop("masks", None)
        sent = masks not in (None, []) or not (
            mask is None or (isinstance(mask, str) and not mask.strip())
        )
        values.setdefault("enabled", True)
        if "eta" in values:
            raise SettingsError("eta: set the WebUI's own Eta instead.")
        _check_names(values)
        own, (under, axes) = set(axes), USER.behind(values, axes)
        if sent and "mask_source" not in own:
            values.setdefault("mask_source", "given")
            axes.pop("mask_source", None)
        values = {**under, **values}
        settings = Settings.from_dict({**values, **axes})
        if sent and settings.mask_source != "given":
            read_masks(mask, masks, settings)  # a mask that cannot be read is said all the same
            notes.append(
                f"mask: it is not used, because mask_source is {settings.mask_source!r}; leave "
                "that out, or set it to 'given'."
            )
            return settings, ()
    else:
        first = len(POSITIONAL)
        values, mask = arguments[:first], arguments[first : first + mask_parts]
        later = arguments[first + mask_parts :]
        named = dict(zip(POSITIONAL, values)) | dict(zip(LATER, later))
        _, axes = USER.behind({}, axes)
        settings = Settings.from_dict({**named, **axes})
        # A picture left in the accordion is nobody's business while another source is chosen.
        if settings.mask_source != "given":
            return settings, ()
        mask, masks = painted_mask(mask, bool(settings.mask_colours.strip())), None
    painted, said = read_masks(mask, masks, settings)
    notes += said
    return settings, painted


def found_in(arguments: Sequence[Any], mask_parts: int = 1) -> Found:
    """What pasted parameters told, from the control that nobody sees: behind all settings."""
    if arguments and isinstance(arguments[0], dict):
        return Found()
    place = len(POSITIONAL) + mask_parts + len(LATER)
    return Found.from_text(arguments[place] if len(arguments) > place else "")


def _check_names(values: Mapping[str, Any]) -> None:
    known = (*WEBUI_FIELDS, "mask", "masks", "preset")
    for name in values:
        if name not in known:
            raise SettingsError(
                f"{str(name)[:40]}: no such setting; the settings are {', '.join(known)}."
            )


def painted_mask(values: Sequence[Any], colours: bool = False) -> Any:
    """What the accordion's canvas holds: float [H, W] within [0, 1], None, or a picture.

    Args:
        values: Gradio 3's sketch, ``{"image": picture, "mask": strokes}``; or the background and
            the foreground of Forge's canvas; or one picture, see :func:`decode_mask`. Where
            nothing is painted the picture itself is the mask, if it is black and white or has
            transparency.
        colours: the colours of the strokes are wanted, or those of the picture: as a picture.

    Raises:
        SettingsError: nothing is painted on a picture in colours, or :func:`decode_mask` refuses.
    """
    picture, strokes = (*values, None, None)[:2]
    if isinstance(picture, dict):
        picture, strokes = picture.get("image"), picture.get("mask")
    elif len(values) < 2:
        return picture if colours else decode_mask(picture)
    if colours and isinstance(strokes, Image.Image) and has_transparency(strokes):
        if strokes.getchannel("A").getbbox():
            return strokes
    if colours:
        return picture
    painted = _strokes(strokes)
    if painted is not None:
        return painted
    if isinstance(picture, Image.Image) and not has_transparency(picture):
        pixels = np.asarray(picture.convert("RGB"), int)
        if (np.ptp(pixels, axis=2) > 40).mean() > 0.01:
            raise SettingsError("mask: nothing is painted on the picture; paint over the object.")
    return decode_mask(picture)


def _strokes(drawn: Any) -> np.ndarray | None:
    """What a brush left: by opacity, or by brightness on an opaque ground.

    0 and 1, for a brush is seldom quite opaque; only what is faint everywhere stays as faint.
    """
    if not isinstance(drawn, Image.Image):
        return None
    alpha = np.asarray(drawn.convert("RGBA"))[..., 3]
    mask = alpha if alpha.min() < 255 else np.asarray(drawn.convert("L"))
    if (mask > 127).any():
        return (mask > 127).astype(np.float32)
    return mask / np.float32(255) if mask.any() else None


def describe_match(matched: Mapping[str, Sequence[int]]) -> str:
    """``dog (token 5), red cat (tokens 8, 9)``."""
    return listed(
        [
            f"{short(word)} (token{'s' if len(at) > 1 else ''} {listed(list(map(str, at)), 60)})"
            for word, at in matched.items()
        ],
        240,
    )
