"""Checkpoints that are one file, by the names of the original code (ldm), as WebUIs keep them.

The file holds weights alone. What the networks are and what they predict is read from a folder in
diffusers' layout (its weights are not needed): Stable Diffusion 2.1 and 2.1 base, say, are alike
but for that. Nothing is downloaded.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch

from asyndm.core.settings import SettingsError

INDEX = "model_index.json"
_KINDS = (
    "StableDiffusionPipeline", "StableDiffusionXLPipeline", "StableDiffusion3Pipeline",
    "FluxPipeline",
)  # fmt: skip
# What a whole checkpoint of Stable Diffusion 1, 2 and XL has, and the names it begins with.
_PARTS = {
    "network": ("model.diffusion_model.",),
    "autoencoder": ("first_stage_model.",),
    "text encoder": ("cond_stage_model.", "conditioner."),
}
_OF_LORA = ("lora_", ".lora.", ".lora_A.", ".hada_", ".lokr_")


def load(path: Path, config: Path | None, dtype: torch.dtype) -> Any:
    """The text-to-image pipeline of a file.

    Args:
        path: of it.
        config: a folder in diffusers' layout; None = the one beside the file that is named as it
            is, without the ending.
        dtype: of its weights.

    Raises:
        SettingsError: what is not such a file or folder, in one line.
        Exception: diffusers' own, of many kinds.
    """
    import accelerate  # noqa: F401 - without it diffusers makes up weights that a file lacks
    import diffusers

    where = config_of(path, config)
    kind = _kind(where)
    if tuple(int(part) for part in diffusers.__version__.split(".")[:2]) < (0, 28):
        raise SettingsError(
            f"checkpoint: diffusers {diffusers.__version__} reads no single file by a folder of "
            "configurations; install diffusers 0.28 or later, or name a folder in its layout."
        )
    _check(path, names_in(path), kind)
    try:
        pipe = getattr(diffusers, kind).from_single_file(
            str(path), config=str(where), torch_dtype=dtype, local_files_only=True
        )
    except NotImplementedError as error:  # diffusers 0.39, where it casts what was not loaded
        if "meta tensor" not in str(error):
            raise
        raise SettingsError(f"checkpoint: {path} lacks weights that {where} asks for.") from None
    for part, module in pipe.components.items():
        if isinstance(module, torch.nn.Module):
            lacks = [name for name, each in module.named_parameters() if each.is_meta]
            if lacks:
                raise SettingsError(
                    f"checkpoint: {path} lacks weights that {where} asks for: {len(lacks)} of "
                    f"{part}, the first {lacks[0]}."
                )
    return pipe


def config_of(path: Path, config: Path | None = None) -> Path:
    """Where a file's configuration lies.

    Raises:
        SettingsError: nowhere.
    """
    where = path.with_suffix("") if config is None else Path(config)
    if (where / INDEX).is_file():
        return where
    lacks = f"{where} has no {INDEX}" if config is not None else "it does not say what it is"
    raise SettingsError(
        f"checkpoint: {path} cannot be loaded ({lacks}); give --config FOLDER, the same model in "
        f"diffusers' layout (weights are not needed), or put that beside it as {path.stem}/."
    )


def _kind(where: Path) -> str:
    try:
        kind = json.loads((where / INDEX).read_text("utf-8"))["_class_name"]
    except (OSError, ValueError, KeyError, TypeError):
        raise SettingsError(f"checkpoint: {where / INDEX} names no pipeline.") from None
    if kind not in _KINDS:
        raise SettingsError(
            f"checkpoint: {where / INDEX} names {kind!r}; a file can be one of {', '.join(_KINDS)}."
        )
    return kind


def names_in(path: Path) -> list[str]:
    """The names of a file's weights, without reading these.

    Raises:
        SettingsError: it is no file of weights, or ends too early.
    """
    try:
        if path.suffix == ".safetensors":
            from safetensors import safe_open

            with safe_open(path, "pt") as content:
                return list(content.keys())
        state = torch.load(path, map_location="meta", weights_only=True)
        return [str(name) for name in state.get("state_dict", state)]
    except Exception as error:  # of many kinds: files, pickles, headers
        lines = str(error).splitlines() or [type(error).__name__]
        raise SettingsError(
            f"checkpoint: {path} is no file of weights, or not the whole of one ({lines[0]:.100})."
        ) from None


def _check(path: Path, names: list[str], kind: str) -> None:
    """Refuse what is no whole checkpoint."""
    if any(mark in name for name in names[:50] for mark in _OF_LORA):
        raise SettingsError(
            f"checkpoint: {path} is a LoRA, which changes a checkpoint and is none; name that."
        )
    if kind in _KINDS[2:]:
        return  # such files often hold the network alone; the folder then has the rest
    for part, starts in _PARTS.items():
        if not any(name.startswith(starts) for name in names):
            raise SettingsError(
                f"checkpoint: {path} holds no {part} ({' or '.join(starts)}*); name a whole "
                "checkpoint of Stable Diffusion 1, 2 or XL."
            )
