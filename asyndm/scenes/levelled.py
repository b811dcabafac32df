"""The embedded model's table of norms: of drawn scenes, so that it depends on the weights alone."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch

from asyndm.core.rows import UNCONDITIONAL
from asyndm.network.calibrate import from_latents
from asyndm.network.norm_table import NormTable

from .model import training_alphas
from .text import tokenize
from .train import to_input
from .world import draw, sample_scene, sample_wish

if TYPE_CHECKING:
    from .pipeline import ScenePipeline

_SCENES, _SEED = 64, 77


def scene_table(pipeline: ScenePipeline, scenes: int = _SCENES, seed: int = _SEED) -> NormTable:
    """A table from scenes of the model's world at coupling 1, with their prompts and without."""
    rng = np.random.default_rng(seed)
    pictures, prompts = [], []
    for _ in range(scenes):
        wish = sample_wish(rng)
        pictures.append(np.asarray(draw(sample_scene(rng, wish, 1.0, pipeline.model.world))))
        prompts.append(wish.prompt())
    model = pipeline.model
    latents = model.autoencoder.encode(to_input(np.stack(pictures), pipeline.device))
    context = torch.cat(
        [
            model.encode_tokens([tokenize("", 1.0)] * scenes),
            model.encode_tokens([tokenize(prompt, 1.0) for prompt in prompts]),
        ]
    )
    return from_latents(
        lambda x, t: model.unet(x, t, encoder_hidden_states=context),
        model.unet,
        latents.repeat(2, 1, 1, 1),
        [UNCONDITIONAL] * scenes + [0] * scenes,
        training_alphas(),
    )
