"""Stands for ``modules/sd_models.py``: the same networks, in the shape of the family's objects."""

from __future__ import annotations

import copy
import importlib.util
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from ldm.modules.diffusionmodules.openaimodel import TimestepEmbedSequential
from torch import Tensor

from modules import forge_backend, shared

_spec = importlib.util.spec_from_file_location(
    "modules.plain_sd_models", Path(__file__).parents[2] / "standin" / "modules" / "sd_models.py"
)
_plain = sys.modules[_spec.name] = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(_plain)

CheckpointInfo, checkpoints_list = _plain.CheckpointInfo, _plain.checkpoints_list
get_closet_checkpoint_match = _plain.get_closet_checkpoint_match
model_data = _plain.model_data


class LayersOnly(TimestepEmbedSequential):
    """A block of the older backend, whose network calls the layers: no hook of a block is."""

    __call__ = TimestepEmbedSequential.forward


class Engine:
    """What the hosts call ``sd_model``."""

    is_sdxl = is_sd3 = False
    cond_stage_key = "txt"

    def __init__(self, info: Any) -> None:
        plain = _plain.LatentDiffusion(info)
        self.sd_checkpoint_info, self.parameterization = info, info.parameterization
        self.alphas_cumprod = plain.alphas_cumprod
        self.decode_first_stage, self.encode_first_stage = (
            plain.decode_first_stage, plain.encode_first_stage,
        )  # fmt: skip
        # Forge keeps its encoder under another name, and another class
        name = "cond_stage_model" if forge_backend.OLD else "text_processing_engine"
        setattr(self, name, plain.cond_stage_model)
        self._encode = plain.cond_stage_model
        predictor = forge_backend.predictor_for(info.parameterization, plain.alphas_cumprod)
        network = plain.model.diffusion_model
        for module in network.modules():
            if forge_backend.OLD and isinstance(module, TimestepEmbedSequential):
                module.__class__ = LayersOnly
        model = forge_backend.KModel(network, predictor)
        self.original_objects = SimpleNamespace(unet=forge_backend.UnetPatcher(model))
        self.forge_objects = copy.copy(self.original_objects)

    def get_learned_conditioning(self, texts: list[str]) -> Tensor:
        with torch.no_grad():
            return self._encode(texts)


def reload_model_weights(info: Any) -> Engine:
    loaded = shared.sd_model
    if loaded is None or loaded.sd_checkpoint_info != info:
        shared.sd_model = Engine(info)
    return shared.sd_model
