"""The embedded model as ``bench context`` measures it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager

import numpy as np
import torch
from torch import Tensor

from asyndm.core.settings import Settings
from asyndm.core.words import objects_of
from asyndm.network.context_map import Predictor
from asyndm.network.norms import LevelledNorms
from asyndm.network.predicting import levelled_by, predicting, union_of
from asyndm.scenes.checker import object_cells
from asyndm.scenes.model import LATENT_SIZE, PATCH
from asyndm.scenes.objects import capture_of
from asyndm.scenes.pipeline import Request, ScenePipeline
from asyndm.scenes.text import parse_prompt
from asyndm.scenes.train import to_input
from asyndm.scenes.world import draw, sample_scene, sample_wish

from .context_pictures import PictureSet
from .scenes import bench_prompts

_SEED = [4504, 18, 31]  # of rendered scenes; no other bench has it


class SceneSubject:
    """The embedded model.

    Args:
        pipeline: of it; its model is moved to ``device`` when the measuring begins.
        coupling: how much backgrounds know of the objects.
        device: where torch runs the network.
    """

    def __init__(self, pipeline: ScenePipeline, coupling: float, device: str = "cpu") -> None:
        self.pipeline, self.coupling, self.device = pipeline, coupling, torch.device(device)
        self.parametrisation = pipeline.parametrisation
        self.unet = pipeline.model.unet
        self.size = (LATENT_SIZE * PATCH,) * 2
        self.cells = (LATENT_SIZE,) * 2
        self.objects = ""

    def rendered(self, count: int, world: str) -> PictureSet:
        """Scenes drawn for wishes as in training, with the cells their objects cover."""
        rng = np.random.default_rng(_SEED)
        wishes = [sample_wish(rng) for _ in range(count)]
        drawn = [draw(sample_scene(rng, wish, self.coupling, world)) for wish in wishes]
        pictures = np.stack([np.asarray(picture) for picture in drawn])
        cells = torch.from_numpy(object_cells(pictures, PATCH))[:, None]
        return PictureSet(self.encode(pictures), cells, [wish.prompt() for wish in wishes])

    def prompts(self, count: int) -> list[str]:
        return bench_prompts("test", count)

    def made(
        self, prompts: Sequence[str], steps: int, cfg: float, tick: Callable[[int], None]
    ) -> PictureSet:
        """The model's own pictures, synchronous, with masks from attention over the whole run."""
        request = Request("", steps=steps, cfg=cfg, coupling=self.coupling)
        latents, masks = [], []
        for start in range(0, len(prompts), 32):
            mine = list(prompts[start : start + 32])
            for prompt in mine:
                parse_prompt(prompt)
            sampled = self.pipeline.sample(
                mine,
                range(start, start + len(mine)),
                "synchronous",
                Settings(objects=self.objects),
                request,
                keep_maps=True,
            )
            latents.append(sampled.latents)
            masks.append(union_of(sampled.maps)[:, None])
            tick(len(mine))
        return PictureSet(torch.cat(latents), torch.cat(masks), list(prompts))

    def encode(self, pictures: np.ndarray) -> Tensor:
        """uint8 [N, 64, 64, 3] -> latents."""
        return self.pipeline.model.autoencoder.encode(to_input(pictures, torch.device("cpu")))

    def begin(self) -> None:
        """To the device, once the pictures are there."""
        self.pipeline.model.to(self.device)

    def predicting(
        self, captions: Sequence[str], norms: LevelledNorms | None = None
    ) -> AbstractContextManager[Predictor]:
        objects = [objects_of(caption, self.objects) for caption in captions]
        return predicting(
            self.unet,
            self.parametrisation,
            self.pipeline.encode(captions, self.coupling),
            capture_of(captions, objects, self.coupling) if any(objects) else None,
            norms=norms,
        )

    def level(self, pictures: PictureSet) -> LevelledNorms:
        """Levelled norms, calibrated on pictures."""
        context = self.pipeline.encode(pictures.captions, self.coupling)
        latents = pictures.latents.to(self.device)
        return levelled_by(self.unet, self.parametrisation, context, latents)
