"""The command line: ``python -m asyndm studio | generate | bench``.

Bad input ends with one line on stderr and exit status 2.
"""

from __future__ import annotations

import argparse
import dataclasses
import importlib
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

from asyndm import __version__
from asyndm.core import settings
from asyndm.core.settings import Settings, SettingsError, check_whole

BENCHES = {
    "overhead": "time, memory and operations beside the synchronous sampler",
    "scenes": "prompt alignment on the embedded model",
    "repaint": "inpainting on the embedded model: seams and change outside the mask",
    "distortion": "a spoilt object redrawn on the embedded model",
    "context": "what clearer context is worth to a checkpoint, by forward passes",
    "norms": "what two noise levels in one image do to the prediction",
    "alignment": "methods beside each other on prompts and checkpoints of your own",
    "tune": "a learned clock found on development prompts, its controls, one confirmation",
}
SHOWN_METHODS = ("synchronous", "concave", "asyndm")
_HELP = {
    "objects": "object words, 'shark:0.7, bike' (default: found in the prompt)",
    "curvature": "k, how far objects lag behind, 0 to 1",
    "threshold": "a pixel is object where attention >= this many times the mean",
    "curve": "how the noise of objects falls; learned: by --profile",
    "profile": "of the learned curve: the name of a file in ./asyndm-profiles",
    "mask_source": "masks read at every step, or from a first synchronous pass",
    "first_step": "what every pixel counts as before the first mask",
    "origin": "paper: the authors' indexing, one interval earlier",
    "smoothing": "weight of earlier steps in the attention, 0 to 0.99",
    "soft": "masks between 0 and 1",
    "start": "masks steer from this fraction of the steps on",
    "end": "masks steer up to this fraction of the steps",
    "guidance": "what makes one prediction of several, for all methods",
    "perturbed_scale": "strength of seg, pag and tpg",
    "seg_blur": "sigma of seg's blur; above 9999 the mean",
    "cfgpp_lambda": "of cfg++, in place of --cfg",
    "apg_eta": "share of the parallel part in apg",
    "apg_momentum": "of apg",
    "apg_norm": "norm limit of apg, 0 = none",
    "interval_low": "guided only above this noise level",
    "interval_high": "guided only up to this noise level, 0 = no end",
    "zigzag": "fraction of the steps that zigzag (Z-Sampling)",
    "zigzag_up": "guidance on a zigzag's way up",
    "rule": "the sampler",
    "schedule": "noise levels: uniform, karras, exponential, kl_optimal, ...",
    "eta": "noise of the ddpm rule, 0 to 1",
    "cfg": "classifier-free guidance",
    "coupling": "how much the scene knows about the objects, 0, 0.5 or 1",
    "batch": "images a method; each has the seed after the one before",
}
_CHOICES = {**settings.CHOICES, "rule": settings.RULES}


class _Parser(argparse.ArgumentParser):
    """argparse without the usage text before an error: one line says it."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: {message}\n")


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit status."""
    argv = list(sys.argv[1:] if argv is None else argv)
    try:
        if argv[:1] == ["bench"] and argv[1:2] and argv[1] in BENCHES:
            return _bench(argv[1], argv[2:])
        if argv[:1] == ["studio"]:
            return _studio(argv[1:])
        args = _parser().parse_args(argv)
        return _generate(args)
    except ModuleNotFoundError as error:
        if error.name and error.name.split(".")[0] == "asyndm":
            raise  # a fault of ours, not a missing extra
        extra = {"studio": "studio", "bench": "bench"}.get(argv[0], "studio")
        return _fail(f"{error.name} is not installed; run: pip install 'asyndm[{extra}]'")
    except ValueError as error:
        if not isinstance(error, _input_errors()):
            raise
        return _fail(str(error))
    except KeyboardInterrupt:
        return 130


def _input_errors() -> tuple[type[ValueError], ...]:
    """The errors that are the user's to mend."""
    text = sys.modules.get("asyndm.scenes.text")  # loaded wherever it could have been raised
    return (SettingsError, text.PromptError) if text else (SettingsError,)


def _fail(line: str) -> int:
    print(f"asyndm: {line}", file=sys.stderr)
    return 2


def _parser() -> argparse.ArgumentParser:
    from asyndm.scenes import chosen

    parser = _Parser(prog="python -m asyndm", description=__doc__.splitlines()[0])
    parser.add_argument("--version", action="version", version=__version__)
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    commands.add_parser("studio", help="the page", add_help=False)
    generate = commands.add_parser(
        "generate", help="images into a folder", description="Images into a folder."
    )
    generate.add_argument("prompt", metavar="PROMPT")
    generate.add_argument("--out", type=Path, required=True, metavar="DIR")
    generate.add_argument(
        "--methods",
        default=",".join(SHOWN_METHODS),
        help=f"also oracle (masks from the checker); default {','.join(SHOWN_METHODS)}",
    )
    generate.add_argument(
        "--mask", type=Path, help="painted mask, a square picture, white = object"
    )
    generate.add_argument("--size", type=int, default=384, help="pixels of a side (0 = as made)")
    chosen.add_arguments(generate)
    for field in _option_fields():
        _add_option(generate, field)
    bench = commands.add_parser("bench", help="measuring").add_subparsers(
        dest="bench", required=True, metavar="BENCH"
    )
    for name, what in BENCHES.items():
        bench.add_parser(name, help=what, add_help=False)
    return parser


def _option_fields() -> list[dataclasses.Field]:
    """What ``generate`` takes as options: the request's fields, then the settings'."""
    from asyndm.scenes.pipeline import Request

    fields = [*dataclasses.fields(Request), *dataclasses.fields(Settings)]
    elsewhere = ("prompt", "painted", "enabled", *settings.WEBUI_ONLY)
    return [field for field in fields if field.name not in elsewhere]


def _add_option(parser: argparse.ArgumentParser, field: dataclasses.Field) -> None:
    """One option from one field; numbers are checked by the dataclasses, which name the range."""
    flag, name = "--" + field.name.replace("_", "-"), field.name
    text = f"{_HELP.get(name, name.replace('_', ' '))} (default {field.default!r})"
    if name in _HELP and "default" in _HELP[name]:
        text = _HELP[name]
    if isinstance(field.default, bool):
        action = argparse.BooleanOptionalAction
        parser.add_argument(flag, action=action, default=field.default, help=text)
    elif name == "mask_source":  # "given" follows from --mask
        parser.add_argument(flag, choices=("dynamic", "fixed"), default="dynamic", help=text)
    elif name in _CHOICES:
        parser.add_argument(flag, choices=_CHOICES[name], default=field.default, help=text)
    else:
        parser.add_argument(flag, type=_reader(field.default), default=field.default, help=text)


def _reader(default: Any) -> type:
    """How an option's text becomes a value."""
    return type(default) if isinstance(default, int | float) else str


def _studio(argv: Sequence[str]) -> int:
    from asyndm.scenes import chosen

    studio = importlib.import_module("asyndm.page.studio")
    parser = _Parser(prog="python -m asyndm studio", description=studio.__doc__.splitlines()[0])
    studio.add_arguments(parser)
    chosen.add_arguments(parser)
    args = parser.parse_args(argv)
    return studio.run(chosen.open_chosen(args), args)


def _bench(name: str, argv: Sequence[str]) -> int:
    bench = importlib.import_module(f"asyndm.bench.{name}")
    parser = _Parser(prog=f"python -m asyndm bench {name}", description=BENCHES[name])
    bench.add_arguments(parser)
    return int(bench.main(parser.parse_args(argv)) or 0)


def _generate(args: argparse.Namespace) -> int:
    """Images with their settings inside, and a JSON file of verdicts."""
    from PIL.PngImagePlugin import PngInfo

    from asyndm.page.preview import enlarge, film_strip
    from asyndm.scenes.chosen import open_chosen
    from asyndm.scenes.pipeline import METHODS, Request

    methods = tuple(dict.fromkeys(name.strip() for name in args.methods.split(",")))
    for method in methods:
        if method not in METHODS:
            raise SettingsError(f"methods: {method!r} is unknown; choose of {', '.join(METHODS)}.")
    if args.size:
        check_whole("size", args.size, 1, 8192)
    values = {field.name: getattr(args, field.name) for field in _option_fields()}
    names = {field.name for field in dataclasses.fields(Settings)}
    settings_asked = Settings.from_dict(
        {
            **{name: value for name, value in values.items() if name in names},
            "enabled": True,
            **({"mask_source": "given"} if args.mask else {}),
        }
    )
    request = Request(
        prompt=args.prompt,
        painted=_read_mask(args.mask) if args.mask else None,
        **{name: value for name, value in values.items() if name not in names},
    )
    pipeline = open_chosen(args)
    try:
        args.out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise SettingsError(
            f"out: {args.out} cannot be made a folder ({error.strerror})."
        ) from None
    result = pipeline.generate(request, settings_asked, methods, _progress)
    print(file=sys.stderr)

    # Files from before there was a choice name no world: theirs is shadows.
    asked = {**_plain(request), **settings_asked.changed(), "world": pipeline.world}
    if pipeline.digest:
        asked["weights"] = pipeline.digest
    report: dict[str, Any] = {"asked": asked, "objects": result.matched, "verdicts": {}}
    report["measured"] = {}
    for method, images in result.images.items():
        report["verdicts"][method] = [_plain(verdict) for verdict in result.verdicts[method]]
        if result.measured:
            report["measured"][method] = [_plain(each) for each in result.measured[method]]
        for index, image in enumerate(images):
            text = PngInfo()
            text.add_text("prompt", request.prompt)
            cost = _plain(result.measured[method][index]) if result.measured else {}
            made = {**asked, "method": method, "index": index, **cost}
            text.add_text("asyndm", json.dumps(made))
            path = args.out / f"{method}-{index}.png"
            (enlarge(image, args.size) if args.size else image).save(path, pnginfo=text)
            print(f"{path}: {result.verdicts[method][index].sentence}")
    if result.film and result.film.masks:
        film_strip(result.film).save(args.out / "film.png")
        print(args.out / "film.png")
    report["notes"] = list(result.notes)
    for note in result.notes:
        print(f"asyndm: {note}", file=sys.stderr)
    (args.out / "verdicts.json").write_text(json.dumps(report, indent=2) + "\n", "utf-8")
    return 0


def _progress(fraction: float, text: str) -> None:
    print(f"\r{fraction:4.0%} {text:<50.50}", end="", file=sys.stderr, flush=True)


def _plain(item: Any) -> dict[str, Any]:
    """A dataclass as JSON values; a painted mask as its size."""
    values = {field.name: getattr(item, field.name) for field in dataclasses.fields(item)}
    return {
        name: f"mask {value.shape[1]}x{value.shape[0]}" if hasattr(value, "shape") else value
        for name, value in values.items()
        if value is not None
    }


def _read_mask(path: Path) -> Any:
    """bool [H, W], white = object.

    Raises:
        SettingsError: no readable picture.
    """
    import numpy as np
    from PIL import Image, UnidentifiedImageError

    try:
        with Image.open(path) as image:
            return np.asarray(image.convert("L")) > 127
    except (OSError, UnidentifiedImageError):
        raise SettingsError(f"mask: {path} is not a picture that can be read.") from None
