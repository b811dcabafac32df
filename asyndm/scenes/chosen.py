"""The option that chooses the small world, the same for studio, ``generate`` and benches."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterable
from pathlib import Path

from safetensors import SafetensorError

from asyndm.core.settings import SettingsError

from .pipeline import ScenePipeline
from .world import DEFAULT_WORLD, FIRST_WORLD, WITH_WEIGHTS


def add_arguments(
    parser: argparse.ArgumentParser, worlds: Iterable[str] = WITH_WEIGHTS, also: str = ""
) -> None:
    """``--world`` and ``--weights``; ``also`` is said of the first."""
    parser.add_argument(
        "--world",
        choices=[*worlds],
        help=f"the small world, and its weights (default {DEFAULT_WORLD}){also}",
    )
    parser.add_argument(
        "--weights",
        metavar="FILE",
        help="of the embedded model: a file, or a world's by its name "
        f"({', '.join(WITH_WEIGHTS)}); it goes before --world",
    )


def weights_of(args: argparse.Namespace) -> str:
    """What the options name: a world of ``WITH_WEIGHTS`` or a file.

    Raises:
        SettingsError: a world without weights here.
    """
    named = args.weights or args.world or DEFAULT_WORLD
    if not args.weights and named not in WITH_WEIGHTS:
        raise SettingsError(f"world: no weights of {named} lie here; name a file by --weights.")
    return str(named)


def told(args: argparse.Namespace, how: Callable[[str], str]) -> dict[str, str]:
    """What a bench's results say of their weights, by ``how``.

    Nothing of those of shadows: results from before there was a choice say nothing either, and the
    same runs go on.
    """
    named = weights_of(args)
    return {} if named == FIRST_WORLD else {"weights": how(named)}


def open_chosen(args: argparse.Namespace) -> ScenePipeline:
    """The model that the options name; one line where they name two worlds.

    Raises:
        SettingsError: weights that cannot be used.
    """
    pipeline = open_pipeline(weights_of(args))
    if args.weights and args.world not in (None, pipeline.world):
        print(
            f"asyndm: world: {args.weights} are weights of {pipeline.world}, so --world "
            f"{args.world} is not read.",
            file=sys.stderr,
        )
    return pipeline


def open_pipeline(weights: Path | str) -> ScenePipeline:
    """The embedded model with the weights that a user named.

    Raises:
        SettingsError: no such weights, or those of another model, in one line.
    """
    try:
        return ScenePipeline.load(weights)
    except FileNotFoundError as error:
        raise SettingsError(str(error)) from None
    except (SafetensorError, RuntimeError, OSError) as error:  # torch: "size mismatch", 200 lines
        raise SettingsError(
            f"weights: {weights} do not fit this model "
            f"({str(error).splitlines()[0]:.80}); give others or train them anew."
        ) from error
