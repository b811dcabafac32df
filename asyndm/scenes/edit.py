"""A painted region of a picture drawn anew, plainly and with the region slow, and both judged."""

from __future__ import annotations

import base64
import io
import json
from dataclasses import dataclass, replace
from functools import lru_cache
from importlib import resources
from typing import Any

import numpy as np
from PIL import Image

from asyndm.core.settings import PRESETS, Settings, SettingsError

from .checker import Verdict, check
from .pipeline import Progress, Request, ScenePipeline, cells_of
from .repaint import repaint
from .text import parse_prompt
from .world import DEFAULT_WORLD, SIZE, WITH_WEIGHTS

METHODS = ("plain", "slow")
CURVATURE = PRESETS["edit"]["curvature"]


@dataclass(frozen=True)
class Edited:
    """Pictures (64x64 RGB) and verdicts by method, and the cells that were drawn anew."""

    images: dict[str, Image.Image]
    verdicts: dict[str, Verdict]
    region: np.ndarray  # bool [16, 16]


@dataclass(frozen=True)
class Example:
    """What is edited at first, how, and what became of it (see ``tools/edit_example.py``)."""

    picture: Image.Image
    region: np.ndarray  # bool [16, 16]
    request: Request
    edited: Edited
    story: str


def edit(
    pipeline: ScenePipeline,
    picture: Image.Image | None,
    painted: np.ndarray | None,
    request: Request,
    curvature: Any = CURVATURE,
    progress: Progress | None = None,
) -> Edited:
    """Draw what is painted over anew, from the same noise by both methods.

    Args:
        picture: any square one; it is taken at 64x64.
        painted: [H, W], where to paint anew: a cell of which half is covered.
        request: the prompt of the whole picture, the seed, steps, guidance, rule, schedule and
            coupling; its painted mask and batch are not read.
        curvature: of the slow region.

    Raises:
        PromptError: a prompt that the model cannot read.
        SettingsError: no picture, nothing painted, or a value that cannot be used.
    """
    if picture is None:
        raise SettingsError(
            "picture: there is none yet; press Generate under Draw, then Edit below a picture."
        )
    if abs(picture.width - picture.height) > 0.02 * max(picture.size):
        raise SettingsError(
            f"picture: it is {picture.width}x{picture.height} pixels; give a square one."
        )
    if painted is None or not np.any(painted):
        raise SettingsError("region: nothing is painted; paint over what shall change.")
    wish = parse_prompt(request.prompt)
    region = cells_of(replace(request, painted=painted).painted)
    small = picture.convert("RGB")
    if small.size != (SIZE, SIZE):
        small = small.resize((SIZE, SIZE), Image.Resampling.BOX)
    images, verdicts = {}, {}
    slow = Settings(enabled=True, mask_source="given", curvature=curvature)
    for number, method in enumerate(METHODS):

        def report(step: int, steps: int, number: int = number, method: str = method) -> None:
            if progress is not None:
                done = (number + step / steps) / len(METHODS)
                progress(done, f"{method}, step {min(step + 1, steps)} of {steps}")

        pixels = repaint(
            pipeline,
            np.array(small)[None],
            region[None],
            [request.prompt],
            [request.seed],
            slow if method == "slow" else replace(slow, curvature=0.0),
            request,
            report=report,
        )[0]
        images[method], verdicts[method] = Image.fromarray(pixels), check(pixels, wish)
    return Edited(images, verdicts, region.numpy())


@lru_cache
def example(world: str = DEFAULT_WORLD) -> Example:
    """The one of a world; of one without weights here, the default world's."""
    world = world if world in WITH_WEIGHTS else DEFAULT_WORLD
    name = f"edit_example_{world}.json"
    held = json.loads(resources.files("asyndm.scenes").joinpath(name).read_text("utf-8"))
    request = Request(held["prompt"], seed=held["seed"])
    wish = parse_prompt(request.prompt)
    region = np.array([[cell == "#" for cell in row] for row in held["region"]])
    images = {method: _picture(held[method]) for method in METHODS}
    verdicts = {method: check(image, wish) for method, image in images.items()}
    edited = Edited(images, verdicts, region)
    return Example(_picture(held["picture"]), region, request, edited, held["story"])


def _picture(text: str) -> Image.Image:
    return Image.open(io.BytesIO(base64.b64decode(text))).convert("RGB")


def as_text(picture: np.ndarray) -> str:
    """A picture, uint8 [64, 64, 3], as an example's file holds it."""
    file = io.BytesIO()
    Image.fromarray(picture).save(file, "PNG", optimize=True)
    return base64.b64encode(file.getvalue()).decode()
