"""``python -m asyndm bench context``: what clearer context is worth to a checkpoint.

No picture is judged and none is sampled asynchronously: clean pictures are noised with objects at
one timestep and everything else at an earlier, clearer one, and the error of the denoised
prediction is measured, see :mod:`asyndm.network.context_map`. The sentence printed claims only what
exceeds the controls; a third of its answers is that nothing can be told.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from asyndm.core.parametrisation import Parametrisation
from asyndm.core.settings import SettingsError, check_number, check_whole
from asyndm.network.context_claim import CURVATURE, sentence
from asyndm.network.context_controls import CONTROLS
from asyndm.network.context_map import ContextMeter, grid_levels
from asyndm.network.norms import LevelledNorms
from asyndm.scenes import chosen
from asyndm.scenes.text import COUPLINGS
from asyndm.scenes.world import WORLDS

from .context_pictures import LAYOUT, PictureSet, read_folder, read_prompts
from .scenes import PRECISIONS

SOURCES = ("rendered", "made", "folder")
_BATCH = 32
_CALIBRATION = 32  # pictures for levelled norms
_NOISE = 31_000_003  # the first picture's seed


class Subject(Protocol):
    """A model to measure.

    Attributes:
        size: (height, width) of its pictures.
        cells: (h, w) of its latents.
        objects: the object words, "" = found in each caption.
    """

    parametrisation: Parametrisation
    device: torch.device
    size: tuple[int, int]
    cells: tuple[int, int]
    objects: str

    def prompts(self, count: int) -> list[str]: ...

    def made(
        self, prompts: list[str], steps: int, cfg: float, tick: Callable[[int], None]
    ) -> PictureSet: ...

    def encode(self, pictures: np.ndarray) -> Tensor: ...

    def begin(self) -> None: ...

    def predicting(self, captions: list[str], norms: LevelledNorms | None = None): ...

    def level(self, pictures: PictureSet) -> LevelledNorms: ...


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of this bench."""
    parser.add_argument("--pictures", type=int, default=96, help="at least 32 to claim anything")
    parser.add_argument(
        "--checkpoint",
        help="of diffusers: a folder in its layout or a file (default: the embedded model)",
    )
    parser.add_argument(
        "--source", choices=SOURCES, help="of pictures; default: rendered, made with --checkpoint"
    )
    parser.add_argument("--folder", type=Path, help=f"of --source folder: {LAYOUT}")
    parser.add_argument("--prompts", type=Path, help="of --source made: one prompt a line")
    parser.add_argument("--objects", default="", help="object words; default: found in captions")
    parser.add_argument("--levels", type=int, default=12, help="timesteps, even in log(snr)")
    parser.add_argument(
        "--controls",
        nargs="*",
        default=list(CONTROLS),
        metavar="NAME",
        help=f"of {', '.join(CONTROLS)}",
    )
    parser.add_argument(
        "--norms", choices=("host", "levelled"), default="host", help="levelled: by pixel's level"
    )
    parser.add_argument("--grow", type=int, default=0, help="masks wider by this many cells")
    parser.add_argument("--curvature", type=float, default=CURVATURE, help="k that is judged")
    parser.add_argument("--coupling", type=float, default=1.0, help="of the embedded model")
    chosen.add_arguments(parser, WORLDS, "; with --weights: of the rendered scenes")
    parser.add_argument("--steps", type=int, default=25, help="of pictures that are made")
    parser.add_argument(
        "--cfg", type=float, help="of pictures that are made; default: 2.5, 7.5 with --checkpoint"
    )
    parser.add_argument("--size", type=int, help="pixels a side, of --checkpoint")
    parser.add_argument("--batch", type=int, default=_BATCH, help="pictures a network call")
    parser.add_argument("--device", default="cpu", help="where torch runs the network: cpu, cuda")
    parser.add_argument("--precision", choices=PRECISIONS, default=PRECISIONS[0])
    parser.add_argument("--threads", type=int, help="of torch")
    parser.add_argument("--json", type=Path, help="the map's rows, its controls and the sentence")
    parser.add_argument("--plot", type=Path, help="heat maps, .png or .svg")


def main(args: argparse.Namespace) -> int:
    """Measure, say, write.

    Raises:
        SettingsError: a value that cannot be used.
    """
    check_whole("pictures", args.pictures, 2, 100_000)
    check_whole("levels", args.levels, 3, 64)
    check_whole("grow", args.grow, 0, 64)
    check_whole("batch", args.batch, 2, 4096)
    check_number("curvature", args.curvature, 0.05, 1)
    for name in args.controls:
        if name not in CONTROLS:
            raise SettingsError(f"controls: {name!r} is unknown; choose of {', '.join(CONTROLS)}.")
    for path in filter(None, (args.json, args.plot)):
        if not path.parent.is_dir():
            raise SettingsError(f"{path.parent} is no folder; make it first.")
    if args.threads:
        torch.set_num_threads(args.threads)
    args.source = args.source or ("made" if args.checkpoint else "rendered")
    subject, setup = _subject(args)
    levelled = args.norms == "levelled"
    pictures = _pictures(args, subject, args.pictures + _CALIBRATION * levelled).grown(args.grow)
    pictures, calibration = _split(pictures, args.pictures) if levelled else (pictures, None)
    report = measure(
        subject,
        pictures,
        args.levels,
        controls=args.controls,
        curvature=args.curvature,
        batch=args.batch,
        precision=args.precision,
        calibration=calibration,
    )
    report = {
        "pictures": report.pop("pictures"),
        **setup,
        "source": args.source,
        "grow": args.grow,
        "norms": args.norms,
        "precision": args.precision,
        "curvature": args.curvature,
        **report,
    }
    report["sentence"] = sentence(report, args.curvature)
    print(report["sentence"])
    if args.json:
        args.json.write_text(json.dumps(report, indent=1) + "\n", "utf-8")
    if args.plot:
        from .context_plot import write_plot

        write_plot(report, args.plot)
    return 0


def measure(
    subject: Subject,
    pictures: PictureSet,
    levels: int,
    *,
    controls: list[str] | tuple[str, ...] = tuple(CONTROLS),
    curvature: float = CURVATURE,
    batch: int = _BATCH,
    precision: str = PRECISIONS[0],
    calibration: PictureSet | None = None,
) -> dict[str, Any]:
    """The report of :meth:`ContextMeter.report`; Ctrl-C ends it with what is there.

    Args:
        subject: the model.
        pictures: two or more.
        levels: how many timesteps.
        controls: of ``CONTROLS``.
        curvature: the largest k whose path the controls are to cover.
        batch: pictures a network call.
        precision: of the network.
        calibration: other pictures, on which levelled norms are calibrated; None = the norms stay
            the network's own.

    Raises:
        SettingsError: a map that cannot be made of these pictures.
    """
    count = len(pictures.captions)
    try:
        meter = ContextMeter(
            subject.parametrisation,
            grid_levels(subject.parametrisation, levels),
            controls,
            curvature,
        )
        subject.begin()
        chunks = np.array_split(np.arange(count), max(1, round(count / batch)))
        with (
            tqdm(total=meter.calls * len(chunks), unit="call") as bar,
            torch.autocast(subject.device.type, torch.bfloat16, enabled=precision == "bfloat16"),
        ):
            norms = None if calibration is None else subject.level(calibration)
            for chunk in chunks:
                mine = slice(chunk[0], chunk[-1] + 1)
                with subject.predicting(pictures.captions[mine], norms) as predict:
                    meter.add(
                        predict,
                        pictures.latents[mine].to(subject.device),
                        pictures.masks[mine],
                        [_NOISE + number for number in chunk.tolist()],
                        bar.update,
                    )
    except KeyboardInterrupt:
        if meter.pictures < 2:
            raise
        print(f"Stopped: {meter.pictures} of {count} pictures are measured; these count.")
    except ValueError as error:
        raise SettingsError(str(error)) from None
    return _report(meter)


def _report(meter: ContextMeter) -> dict[str, Any]:
    try:
        return meter.report()
    except ValueError as error:
        raise SettingsError(f"pictures: {error}") from None


def _subject(args: argparse.Namespace) -> tuple[Subject, dict[str, Any]]:
    """The model, and what tells its results from those of another."""
    device = check_device(args.device)
    if args.checkpoint:
        from . import context_checkpoint

        for name in ("world", "weights"):
            if getattr(args, name):
                raise SettingsError(f"{name}: it is of the embedded model; leave it out.")
        if args.source == "rendered":
            raise SettingsError("source: rendered scenes are the embedded model's; choose another.")
        if args.size is not None:
            check_whole("size", args.size, 8, 8192)
        subject = context_checkpoint.load(args.checkpoint, args.size, device, args.precision)
        setup = {"model": Path(args.checkpoint).name, "size": list(subject.size)}
    else:
        from .context_scenes import SceneSubject

        if args.coupling not in COUPLINGS:
            raise SettingsError(f"coupling: {args.coupling:g} is unknown; choose of 0, 0.5, 1.")
        pipeline = chosen.open_pipeline(chosen.weights_of(args))
        subject = SceneSubject(pipeline, args.coupling, device)
        weights = Path(args.weights).name if args.weights else "shipped"
        # Scenes of one world may be shown to another's network.
        world = args.world or pipeline.world
        setup = {"model": f"embedded, {weights}", "coupling": args.coupling, "world": world}
    subject.objects = args.objects
    return subject, setup


def _split(pictures: PictureSet, count: int) -> tuple[PictureSet, PictureSet]:
    """What is measured, and what norms are calibrated on: others, at least two of each.

    Raises:
        SettingsError: too few pictures.
    """
    given = len(pictures.captions)
    first = min(count, given - max(2, min(_CALIBRATION, given // 4)))
    if first < 2:
        raise SettingsError(f"norms: levelled ones need others to calibrate on than the {given}.")
    parts = [
        PictureSet(pictures.latents[part], pictures.masks[part], pictures.captions[part])
        for part in (slice(first), slice(first, None))
    ]
    return parts[0], parts[1]


def _pictures(args: argparse.Namespace, subject: Subject, count: int) -> PictureSet:
    if args.source == "folder":
        if args.folder is None:
            raise SettingsError(f"folder: name it with --folder; it should hold {LAYOUT}.")
        found, masks, captions = read_folder(args.folder, count, subject.size, subject.cells)
        return PictureSet(subject.encode(found), masks, captions)
    if args.source == "rendered":
        return subject.rendered(count, args.world or subject.pipeline.world)
    check_whole("steps", args.steps, 1, 1000)
    prompts = read_prompts(args.prompts) if args.prompts else subject.prompts(count)
    prompts = [prompts[number % len(prompts)] for number in range(count)]
    with tqdm(total=len(prompts), unit="picture") as bar:
        cfg = args.cfg if args.cfg is not None else 7.5 if args.checkpoint else 2.5
        return subject.made(prompts, args.steps, check_number("cfg", cfg, 0, 30), bar.update)


def check_device(name: str) -> str:
    """A device torch can use.

    Raises:
        SettingsError: it cannot.
    """
    try:
        torch.empty(1, device=name)
    except Exception as error:  # torch's errors of this have no common type
        first = (str(error).splitlines() or ["?"])[0]
        raise SettingsError(f"device: {name!r} cannot be used ({first:.120}).") from None
    return name
