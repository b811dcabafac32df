"""A checkpoint of diffusers as ``bench context`` measures it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager

import numpy as np
import torch
from torch import Tensor

from asyndm.core.schedule import resample
from asyndm.core.settings import SettingsError
from asyndm.network import UnsupportedNetwork
from asyndm.network.context_map import Predictor
from asyndm.network.norms import LevelledNorms
from asyndm.network.predicting import levelled_by, predicting, union_of
from asyndm.pipelines import Checkpoint

from .context_pictures import PictureSet, animal_prompts

_MADE_AT_ONCE = 4


class CheckpointSubject:
    """One checkpoint at one size.

    Args:
        checkpoint: of diffusers.
        size: (height, width) of the pictures.

    Raises:
        SettingsError: a size the autoencoder cannot cut into cells.
    """

    def __init__(self, checkpoint: Checkpoint, size: tuple[int, int]) -> None:
        if any(side % checkpoint.factor or side < checkpoint.factor for side in size):
            raise SettingsError(f"size: it must be a multiple of {checkpoint.factor} pixels.")
        self.checkpoint, self.size = checkpoint, size
        self.parametrisation, self.device = checkpoint.parametrisation, checkpoint.device
        self.cells = tuple(side // checkpoint.factor for side in size)
        self.objects = ""

    def prompts(self, count: int) -> list[str]:
        return animal_prompts()

    def made(
        self, prompts: Sequence[str], steps: int, cfg: float, tick: Callable[[int], None]
    ) -> PictureSet:
        """The model's own pictures with masks from attention over the whole run."""
        latents, masks = [], []
        for start in range(0, len(prompts), _MADE_AT_ONCE):
            mine = prompts[start : start + _MADE_AT_ONCE]
            seeds = range(start, start + len(mine))
            made, maps = self.checkpoint.make(mine, seeds, steps, cfg, self.size, self.objects)
            latents.append(made)
            masks.append(resample(union_of(maps), self.cells)[:, None])
            tick(len(mine))
        return PictureSet(torch.cat(latents), torch.cat(masks), list(prompts))

    def encode(self, pictures: np.ndarray) -> Tensor:
        return self.checkpoint.encode(pictures)

    def begin(self) -> None:
        """It is on its device."""

    def predicting(
        self, captions: Sequence[str], norms: LevelledNorms | None = None
    ) -> AbstractContextManager[Predictor]:
        context, arguments = self.checkpoint.conditions(captions, self.size)
        return predicting(
            self.checkpoint.unet,
            self.parametrisation,
            context,
            self.checkpoint.capture(captions, self.objects),
            network_arguments=arguments,
            norms=norms,
        )

    def level(self, pictures: PictureSet) -> LevelledNorms:
        """Levelled norms, calibrated on pictures."""
        context, arguments = self.checkpoint.conditions(pictures.captions, self.size)
        latents = pictures.latents.to(self.device)
        return levelled_by(self.checkpoint.unet, self.parametrisation, context, latents, arguments)


def load(path: str, side: int | None, device: str, precision: str) -> CheckpointSubject:
    """The checkpoint, at the size it was trained at or another.

    Raises:
        SettingsError: one that cannot be loaded or measured.
    """
    dtype = torch.bfloat16 if precision == "bfloat16" else torch.float32
    try:
        checkpoint = Checkpoint.load(path, device, dtype)
    except UnsupportedNetwork as error:
        raise SettingsError(f"checkpoint: {error}") from None
    return CheckpointSubject(checkpoint, (side, side) if side else checkpoint.size)
