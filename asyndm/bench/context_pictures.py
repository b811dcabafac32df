"""Where ``bench context`` takes its pictures from: a folder, or prompts for the model's own."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor

from asyndm.core.given import cover, read_mask
from asyndm.core.settings import SettingsError

KINDS = (".png", ".jpg", ".jpeg", ".webp", ".bmp")
LAYOUT = "NAME.png, NAME.txt (caption) and NAME-mask.png (white = object)"
# "a cat riding a bike": the template of Animal Activity (Black et al. 2023, arXiv 2305.13301).
_ANIMALS = ("cat", "dog", "horse", "monkey", "rabbit", "bear", "fox", "duck", "lion", "goat", "cow")
_ACTIVITIES = ("riding a bike", "washing the dishes", "playing chess")


@dataclass(frozen=True)
class PictureSet:
    """Clean pictures with their objects.

    Attributes:
        latents: [N, C, h, w].
        masks: bool [N, 1, h, w].
        captions: [N].
    """

    latents: Tensor
    masks: Tensor
    captions: list[str]

    def grown(self, cells: int) -> PictureSet:
        """With masks wider by some cells on every side."""
        masks = self.masks
        if cells:
            masks = F.max_pool2d(masks.float(), 2 * cells + 1, 1, cells) > 0
        return PictureSet(self.latents, masks, self.captions)


def animal_prompts() -> list[str]:
    """33 prompts of one subject that does something."""
    return [f"a {animal} {activity}" for activity in _ACTIVITIES for animal in _ANIMALS]


def read_prompts(path: Path) -> list[str]:
    """One prompt a line.

    Raises:
        SettingsError: no such file, or nothing in it.
    """
    try:
        prompts = [line.strip() for line in path.read_text("utf-8").splitlines()]
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsError(f"prompts: {path} is no text file ({str(error):.60}).") from None
    prompts = [prompt for prompt in prompts if prompt]
    if not prompts:
        raise SettingsError(f"prompts: {path} is empty; write one prompt a line.")
    return prompts


def read_folder(
    folder: Path, count: int, size: tuple[int, int], cells: tuple[int, int]
) -> tuple[np.ndarray, Tensor, list[str]]:
    """The first pictures of a folder, by name.

    Args:
        folder: holds ``LAYOUT``.
        count: pictures at most.
        size: (height, width) they are cropped and scaled to.
        cells: (h, w) of the latents; a cell is object where the mask covers half of it.

    Returns:
        (uint8 [N, H, W, 3], bool [N, 1, h, w], captions).

    Raises:
        SettingsError: what is missing or cannot be read, by name.
    """
    if not folder.is_dir():
        raise SettingsError(f"folder: {folder} is no folder; it should hold {LAYOUT}.")
    names = sorted(
        path
        for path in folder.iterdir()
        if path.suffix.lower() in KINDS and not path.stem.endswith("-mask")
    )[:count]
    if len(names) < 2:
        raise SettingsError(f"folder: {folder} holds fewer than two pictures as {LAYOUT}.")
    pictures, masks, captions = [], [], []
    for path in names:
        caption = path.with_suffix(".txt")
        if not caption.is_file():
            raise SettingsError(f"folder: {caption} is missing; every picture needs {LAYOUT}.")
        captions.append(caption.read_text("utf-8").strip())
        picture = _open(path).convert("RGB")
        pictures.append(np.asarray(ImageOps.fit(picture, size[::-1], Image.Resampling.LANCZOS)))
        drawn = _open(_mask_of(path))
        if drawn.size != picture.size:
            raise SettingsError(
                f"folder: the mask of {path.name} is {drawn.width}x{drawn.height}, its picture "
                f"{picture.width}x{picture.height}; make them equal."
            )
        try:
            mask = read_mask(ImageOps.fit(drawn, size[::-1], Image.Resampling.BOX))
        except SettingsError as error:
            raise SettingsError(f"folder: of {path.name}: {error}") from None
        masks.append(cover(mask, cells) >= 0.5)
    return np.stack(pictures), torch.from_numpy(np.stack(masks))[:, None], captions


def _mask_of(path: Path) -> Path:
    for kind in KINDS:
        mask = path.with_name(f"{path.stem}-mask{kind}")
        if mask.is_file():
            return mask
    raise SettingsError(f"folder: {path.stem}-mask.png is missing; every picture needs {LAYOUT}.")


def _open(path: Path) -> Image.Image:
    try:
        with Image.open(path) as image:
            return ImageOps.exif_transpose(image)
    except (OSError, UnidentifiedImageError):
        raise SettingsError(f"folder: {path} is not a picture that can be read.") from None
