"""Tiny models of Forge Neo's transformers: its own engines, modules and tokenizers, small and
random."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import torch
from flow_models import CLIP, T5_WIDTH, bounded, put_engine_in, randomised
from torch import nn

WORDS = {"hidden_size": 64, "intermediate_size": 64, "num_hidden_layers": 3}
WORDS |= {"num_attention_heads": 2, "num_key_value_heads": 1}
LUMINA = {
    "in_channels": 16, "n_layers": 2, "n_refiner_layers": 1, "multiple_of": 16, "qk_norm": True,
    "cap_feat_dim": 64, "axes_dims": (4, 6, 6),
}  # fmt: skip
FLUX = {
    "in_channels": 16, "out_channels": 16, "vec_in_dim": 64, "context_in_dim": T5_WIDTH,
    "hidden_size": 64, "mlp_ratio": 4.0, "num_heads": 2, "depth": 2, "depth_single_blocks": 2,
    "axes_dim": [8, 12, 12], "theta": 10000, "patch_size": 2, "qkv_bias": True,
    "guidance_embed": True,
}  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Model:
    """One tiny model.

    Attributes:
        engine: module and class in ``backend.diffusion_engine``.
        guess: its description in ``huggingface_guess.model_list``.
        network: module and class in ``backend.nn``.
        arguments: of the network.
        words: the text encoder's class in ``backend.nn.llm.llama``; None = Flux.1's two.
        files: folder of the tokenizer in ``backend/huggingface``.
        vae: "image", "video" (Wan's) or "flux2".
        layers: of the text encoder.
    """

    engine: tuple[str, str]
    guess: str
    network: tuple[str, str]
    arguments: dict[str, Any]
    words: str | None
    files: str
    vae: str = "image"
    layers: int = 3


MODELS = {
    "lumina": Model(
        ("lumina", "Lumina2"), "Lumina2", ("lumina", "NextDiT"),
        {**LUMINA, "dim": 32, "n_heads": 2, "n_kv_heads": 1}, "Gemma2_2B", "neta-art/Neta-Lumina",
    ),
    "qwen": Model(
        ("qwen", "QwenImage"), "QwenImage", ("qwen", "QwenImageTransformer2DModel"),
        {"num_layers": 2, "attention_head_dim": 16, "num_attention_heads": 2,
         "joint_attention_dim": 64, "axes_dims_rope": (4, 6, 6)},
        "Qwen25_7BVLI", "Qwen/Qwen-Image", vae="video",
    ),
    "flux": Model(
        ("flux", "Flux"), "Flux", ("flux", "IntegratedFluxTransformer2DModel"), FLUX, None,
        "black-forest-labs/FLUX.1-dev",
    ),
    "flux2": Model(
        ("flux2", "Flux2"), "Flux2K4B", ("flux", "IntegratedFluxTransformer2DModel"),
        {**FLUX, "in_channels": 128, "out_channels": 128, "vec_in_dim": None, "patch_size": 1,
         "context_in_dim": 192, "mlp_ratio": 3.0, "axes_dim": [8, 8, 8, 8], "theta": 2000,
         "qkv_bias": False, "guidance_embed": False, "txt_ids_dims": [3], "ops_bias": False,
         "global_modulation": True, "mlp_silu_act": True},
        "Qwen3_4B", "black-forest-labs/FLUX.2-klein-4B", vae="flux2", layers=28,
    ),
    "z-image": Model(
        ("zimage", "ZImage"), "ZImage", ("lumina", "NextDiT"),
        {**LUMINA, "dim": 256, "n_heads": 16, "z_image_modulation": True, "time_scale": 1000.0,
         "pad_tokens_multiple": 32, "rope_theta": 256.0},
        "Qwen3_4B", "Tongyi-MAI/Z-Image-Turbo",
    ),
}  # fmt: skip


def put_in(host: Any, name: str) -> None:
    """Make one of :data:`MODELS` the model that a running Forge Neo has loaded."""
    import importlib

    from backend import memory_management
    from modules import processing
    from modules_forge.packages.huggingface_guess import model_list

    model = MODELS[name]
    guess = getattr(model_list, model.guess)({})
    guess.model_type = guess.model_type({})  # as its own loader does
    module = importlib.import_module(f"backend.nn.{model.network[0]}")
    network = randomised(getattr(module, model.network[1])(**model.arguments), 11).float()
    network.storage_dtype = network.computation_dtype = torch.float32
    device = memory_management.get_torch_device()
    network.load_device = network.offload_device = network.initial_device = device
    home = Path(host.folder) / "backend/huggingface" / model.files
    parts = {"transformer": network, "vae": _vae(model.vae), **_words(model, home)}
    module = importlib.import_module(f"backend.diffusion_engine.{model.engine[0]}")
    engine = getattr(module, model.engine[1])(guess, parts)
    put_engine_in(host, engine)
    ratio = engine.forge_objects.vae.upscale_ratio  # as its own loader does
    processing.opt_f = ratio if isinstance(ratio, int) else 8


def _words(model: Model, home: Path) -> dict[str, Any]:
    from backend.nn.llm import llama, qwen_vl
    from backend.operations import using_forge_operations
    from transformers import AutoTokenizer

    if model.words is None:
        return _two_encoders(home)
    config = getattr(llama, f"{model.words}Config", None) or getattr(llama, f"{model.words}_Config")
    own = config.__init__

    def small(self: Any) -> None:
        own(self, **{**WORDS, "num_hidden_layers": model.layers})

    config.__init__ = small
    heads, config.head_dim = config.head_dim, 32
    eye, qwen_vl.Qwen2VLVisionTransformer = qwen_vl.Qwen2VLVisionTransformer, _no_eye
    operations = using_forge_operations(device=torch.device("cpu"), dtype=torch.float32)
    try:
        with operations:  # its norms have an argument more
            encoder = randomised(getattr(llama, model.words)({}), 3)
    finally:
        config.__init__, config.head_dim = own, heads
        qwen_vl.Qwen2VLVisionTransformer = eye
    encoder.model.config.head_dim = 32
    tokenizer = AutoTokenizer.from_pretrained(home / "tokenizer")
    return {"text_encoder": encoder, "tokenizer": tokenizer}


def _no_eye(**options: Any) -> nn.Module:
    return nn.Identity()


def _two_encoders(home: Path) -> dict[str, Any]:
    from backend.nn.clip import IntegratedCLIP
    from backend.nn.t5 import IntegratedT5
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer, PreTrainedTokenizerFast

    config = CLIPTextConfig.from_json_file(home / "text_encoder/config.json")
    config.update(CLIP)
    t5 = json.loads((home / "text_encoder_2/config.json").read_text())
    t5 |= {"d_model": T5_WIDTH, "d_ff": 64, "d_kv": 16, "num_heads": 4, "num_layers": 2}
    words = PreTrainedTokenizerFast(
        tokenizer_file=str(home / "tokenizer_2/tokenizer.json"),
        eos_token="</s>", pad_token="<pad>", unk_token="<unk>",
    )  # fmt: skip
    return {
        "text_encoder": randomised(IntegratedCLIP(CLIPTextModel, config), 1),
        "text_encoder_2": randomised(IntegratedT5(t5), 3),
        "tokenizer": CLIPTokenizer.from_pretrained(home / "tokenizer"), "tokenizer_2": words,
    }  # fmt: skip


def _vae(kind: str) -> nn.Module:
    if kind == "video":
        from backend.nn.wan_vae import WanVAE

        return bounded(randomised(WanVAE(base_dim=16, z_dim=16, num_res_blocks=1), 9), frames=True)
    from backend.nn.vae import AutoencoderKLFlux2, IntegratedAutoencoderKL

    make = AutoencoderKLFlux2 if kind == "flux2" else IntegratedAutoencoderKL
    vae = make(
        latent_channels=32 if kind == "flux2" else 16, block_out_channels=(32, 32, 32, 32),
        use_quant_conv=False, use_post_quant_conv=False,
    )  # fmt: skip
    vae = randomised(vae, 9)
    if kind == "flux2":
        vae.bn.running_var.fill_(1)
    return bounded(vae)
