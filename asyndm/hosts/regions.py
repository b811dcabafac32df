"""Regions that a regional prompter has laid out, as ready masks: one an object.

Such an extension gives every region a prompt of its own, so attention no longer tells where a word
of the whole prompt is; but it knows where its regions are. A region is an object where its own
prompt holds an object word. Two are read:

- *Regional Prompter* (Attention and Latent; columns, rows and masks) keeps on its script what it
  divides by: ``aratios`` (rows of cells, as fractions) or ``regmasks``.
- *Forge Couple* keeps its masks in the patches it gives the network, and on its script the parts of
  the first image's prompt (``couples``), which it gives all images.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from asyndm.core.given import cover
from asyndm.core.masks import GivenMasks
from asyndm.core.settings import Settings, SettingsError
from asyndm.core.words import ObjectWord, listed, short
from asyndm.hosts.prompts import PromptWords, prompts_of

REGIONAL_PROMPTER = "Regional Prompter"
FORGE_COUPLE = "Forge Couple"
IDLE = ("threshold", "smoothing", "soft", "first_step")  # settings that regions leave unused
ANY = "any"  # what is said where nobody knows which region is whose
# (word, text) -> whether the text has it, by the model's own tokens
Has = Callable[[ObjectWord, str], bool]


@dataclass(frozen=True)
class Region:
    """Where one part of the prompt is.

    Attributes:
        shape: bool [H, W] at any resolution, or the box (top, bottom, left, right) in fractions.
        texts: [B], its own prompt in each image; empty where it cannot be told.
    """

    shape: np.ndarray | tuple[float, float, float, float]
    texts: tuple[str, ...] = ()

    def cells(self, size: tuple[int, int]) -> np.ndarray:
        """bool [*size]: the cells of which at least half is inside."""
        if not isinstance(self.shape, tuple):
            return cover(self.shape.astype(np.float32), size) >= 0.5 - 1e-6
        top, bottom, left, right = self.shape
        made = np.zeros(size, bool)
        rows, columns = (slice(round(a * n), round(b * n)) for a, b, n in (
            (top, bottom, size[0]), (left, right, size[1])
        ))  # fmt: skip
        made[rows, columns] = True
        return made


@dataclass(frozen=True)
class Regions:
    """What one extension has laid out for a job."""

    owner: str
    regions: tuple[Region, ...]

    def masks(
        self,
        objects: Sequence[Sequence[ObjectWord | None]],
        has: Has,
        settings: Settings,
        size: tuple[int, int],
        device: torch.device,
    ) -> tuple[GivenMasks, dict[str, list[int]]]:
        """The regions whose prompts have an object word.

        Args:
            objects: [B], the words of each image.
            has: whether a text has a word.
            settings: whose k a word takes that has none of its own.
            size: of the latents.
            device: of the run.

        Returns:
            (masks of the run, the numbers of the regions by word).

        Raises:
            SettingsError: no region's prompt has any of them.
        """
        chosen: dict[tuple[int, float], set[int]] = {}  # (region, k) -> images
        told: dict[str, list[int]] = {}
        for number, region in enumerate(self.regions):
            for image, words in enumerate(objects):
                here = [w for w in words if w and (not region.texts or has(w, region.texts[image]))]
                if not here:
                    continue
                own = [word.k(settings.curvature) for word in here]
                if not region.texts:  # nobody knows whose it is
                    here, own = [ObjectWord(ANY)], [settings.curvature]
                chosen.setdefault((number, max(own)), set()).add(image)
                for word in here:
                    at = told.setdefault(word.text, [])
                    at += [] if number + 1 in at else [number + 1]
        if not chosen:
            words = listed(list(dict.fromkeys(w.text for row in objects for w in row if w)))
            raise SettingsError(f"{self.owner}: no region has an object word ({words}).")
        masks = torch.zeros(len(objects), len(chosen), *size, dtype=torch.bool)
        for place, ((number, _), images) in enumerate(chosen.items()):
            cells = torch.from_numpy(self.regions[number].cells(size))
            masks[sorted(images), place] = cells
        return GivenMasks.of_objects(masks.to(device), [k for _, k in chosen]), told


@dataclass(frozen=True)
class Laid:
    """Regions as one run's masks.

    Attributes:
        masks: of the run.
        told: which word is in which region, in words.
        notes: lines for the user.
        owner: the extension.
    """

    masks: GivenMasks
    told: str
    notes: tuple[str, ...]
    owner: str


def lay(
    p: Any, words: PromptWords, settings: Settings, patches: Iterable[Any], x: Tensor
) -> Laid | None:
    """The masks of one sampling call from another extension's regions; None without any.

    Args:
        p: the host's processing object.
        words: of the batch's prompts.
        settings: of the run.
        patches: see :func:`regions_of`.
        x: the latents.

    Raises:
        SettingsError: regions that cannot be read, or none with an object word.
    """
    found = regions_of(p, prompts_of(p), patches)
    if found is None:
        return None
    size = tuple(x.shape[-2:])
    masks, told = found.masks(words.objects, words.has, settings, size, x.device)
    idle = [name for name in IDLE if name in settings.changed()]
    idle = ["mask_source"] * (settings.mask_source != "dynamic") + idle
    notes = [f"{', '.join(idle)}: the regions of {found.owner} are the masks; nothing is changed."]
    notes = notes if idle else []
    absent = [word for word in words.matched if word not in told and ANY not in told]
    if absent and not words.automatic:
        text = listed([repr(word) for word in absent])
        notes.append(f"objects: {text} is in no region of {found.owner}; it steers nothing.")
    parts = [
        f"{short(word)} (region{'s' if len(at) > 1 else ''} {listed(list(map(str, at)), 60)})"
        for word, at in told.items()
    ]
    return Laid(masks, f"{listed(parts, 240)} of {found.owner}", tuple(notes), found.owner)


def regions_of(p: Any, prompts: Sequence[str], patches: Iterable[Any] = ()) -> Regions | None:
    """The regions an extension has laid out for this job; None where there are none.

    Args:
        p: the host's processing object.
        prompts: [B], as the host encodes them.
        patches: functions in the network's cross-attention, of a host that has such.

    Raises:
        SettingsError: a regional prompter is on, and its regions cannot be read.
    """
    script = _script_of(p, REGIONAL_PROMPTER)
    if getattr(script, "active", False):
        return Regions(REGIONAL_PROMPTER, _prompters(script, prompts))
    for patch in patches:
        if "couple" in getattr(patch, "__module__", ""):
            masks = inspect.getclosurevars(inspect.unwrap(patch)).nonlocals.get("mask")
            if isinstance(masks, Tensor) and masks.ndim in (3, 4) and len(masks) > 1:
                return Regions(FORGE_COUPLE, _couples(p, masks, len(prompts)))
    return None


# --- Regional Prompter (hako-mikan's and its ports) ---


def _prompters(script: Any, prompts: Sequence[str]) -> tuple[Region, ...]:
    mode = str(getattr(script, "mode", ""))
    masks, rows = getattr(script, "regmasks", None), getattr(script, "aratios", None)
    shapes: list[Any] = []
    breaks: list[int] = []
    try:
        if "Mask" in mode and masks:
            for mask in masks:
                shapes.append(_flat(mask) > 0.5)
                breaks.append(0)
        elif any(part in mode for part in ("Hor", "Ver", "Col", "Row")) and rows:
            upright = any(part in mode for part in ("Ver", "Row"))  # its outer list: columns
            for row in rows:
                for cell in row.cols:
                    outer, inner = (row.st, row.ed), (cell.st, cell.ed)
                    box = (*inner, *outer) if upright else (*outer, *inner)
                    shapes.append(tuple(float(edge) for edge in box))
                    breaks.append(int(getattr(cell, "breaks", 0)))
    except (AttributeError, TypeError, ValueError, RuntimeError):
        shapes = []
    if not shapes:
        raise SettingsError(
            f"{REGIONAL_PROMPTER}: its regions are not known before the image (mode {mode!r}); "
            "choose columns, rows or a mask there, or paint the mask here."
        )
    between = "AND" if "La" in str(getattr(script, "calc", "")) else "BREAK"
    first = 1 if getattr(script, "usebase", False) else 0
    parts = [prompt.split(between) for prompt in prompts]
    regions, place = [], first
    for shape, more in zip(shapes, breaks):
        theirs = [" ".join(texts[place : place + 1 + more]) for texts in parts]
        enough = all(len(texts) > place + more for texts in parts)
        regions.append((shape, tuple(theirs) if enough else ()))
        place += 1 + more
    known = all(texts for _, texts in regions)
    return tuple(Region(shape, texts if known else ()) for shape, texts in regions)


# --- Forge Couple (Haoming02's) ---


def _couples(p: Any, masks: Tensor, images: int) -> tuple[Region, ...]:
    """Weights [N, 1, H, W] of the parts: a pixel is the part's that has most of it there.

    The first of the masks is an empty one. A background's line has weights everywhere and so no
    pixel of its own where others lie above it.
    """
    shares = np.stack([_flat(mask) for mask in masks])
    shares = shares[1:] if not shares[0].any() else shares
    most = shares.argmax(0)
    script = _script_of(p, FORGE_COUPLE)
    parts = getattr(script, "couples", None)
    known = isinstance(parts, list | tuple) and len(parts) == len(shares)
    return tuple(
        Region(most == number, (str(parts[number]),) * images if known else ())
        for number in range(len(shares))
        if (most == number).any()
    )


def _script_of(p: Any, title: str) -> Any:
    for script in getattr(getattr(p, "scripts", None), "alwayson_scripts", ()):
        said = script.title() if callable(getattr(script, "title", None)) else ""
        if said.strip().lower() == title.lower():
            return script
    return None


def _flat(mask: Any) -> np.ndarray:
    """[H, W] float of a mask with any number of leading ones."""
    made = np.asarray(mask.detach().float().cpu() if isinstance(mask, Tensor) else mask, float)
    return made.reshape(made.shape[-2:])
