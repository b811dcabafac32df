"""Whole checkpoint files of tiny flow models: network, text encoders and VAE, as people load them.

The files are what A1111 and Forge main read; only sizes that the hosts take from configurations of
their own, and Forge's constants for Flux and Chroma, are given while a file is loaded.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import flow_models
import pytest
import torch

OF_A1111 = ("model.diffusion_model.", "first_stage_model.", "text_encoders.clip_l.",
            "text_encoders.clip_g.", "text_encoders.t5xxl.")  # fmt: skip
FORGE_ENCODERS = {
    "flux": {"text_encoder": "clip_l", "text_encoder_2": "t5xxl"},
    "chroma": {"text_encoder": "t5xxl"},
}
SD3_ENCODERS = {"text_encoder": "clip_l", "text_encoder_2": "clip_g", "text_encoder_3": "t5xxl"}


@contextmanager
def loaded(host: Any, name: str) -> Iterator[Path]:
    """A whole checkpoint of one of sd3, sd35, flux, chroma, chosen and loaded by its name."""
    from modules import sd_models
    from safetensors.torch import save_file

    state = _of_forge(host, name) if host.name == "Forge" else _of_a1111(host)
    path = Path(sd_models.model_path) / f"whole-{name}.safetensors"
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file({key: value.contiguous().clone() for key, value in state.items()}, str(path))
    try:
        sd_models.list_models()
        with pytest.MonkeyPatch.context() as patch:
            if host.name == "Forge":
                _small(name, patch)
            host.checkpoint(path.stem)
        flow_models.forget_prompts()
        yield path
    finally:
        host.checkpoint("sd1")
        flow_models.forget_prompts()
        path.unlink()
        sd_models.list_models()


def _of_a1111(host: Any) -> dict[str, torch.Tensor]:
    state = flow_models.a1111_sd3(host).state_dict()
    return {key: value for key, value in state.items() if key.startswith(OF_A1111)}


def _of_forge(host: Any, name: str) -> dict[str, torch.Tensor]:
    parts = flow_models.forge_parts(host, name, whole=True)
    vae = "first_stage_model." if name.startswith("sd3") else "vae."
    prefixes = {"transformer": "model.diffusion_model.", "vae": vae}
    for part, encoder in FORGE_ENCODERS.get(name, SD3_ENCODERS).items():
        prefixes[part] = f"text_encoders.{encoder}."
    return {
        prefix + key: value
        for part, prefix in prefixes.items()
        for key, value in parts[part].state_dict().items()
    }


def _small(name: str, patch: pytest.MonkeyPatch) -> None:
    """Forge's own configurations of encoders, VAE and, for Flux and Chroma, the network."""
    from backend import loader
    from huggingface_guess import detection
    from transformers import CLIPTextConfig

    def read(folder: str) -> dict[str, Any]:
        return json.loads((Path(folder) / "config.json").read_text("utf-8"))

    def clip(folder: str) -> Any:
        config = CLIPTextConfig.from_dict(read(folder))
        config.update(flow_models.CLIP)
        return config

    patch.setattr(CLIPTextConfig, "from_pretrained", clip)
    patch.setattr(loader, "read_arbitrary_config", lambda folder: read(folder) | flow_models.T5)
    channels = {"block_out_channels": (32, 32, 32, 32), "layers_per_block": 1}
    patch.setattr(
        loader.IntegratedAutoencoderKL, "load_config", lambda folder: read(folder) | channels
    )
    if name.startswith("sd3"):
        return  # by the shapes in the file
    own = detection.detect_unet_config
    patch.setattr(detection, "detect_unet_config", lambda *given: own(*given) | flow_models.FLUX)
    if name == "chroma":
        patch.setattr(loader.GuessChroma, "unet_extra_config", flow_models.CHROMA)
