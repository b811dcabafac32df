"""Tiny models of Forge Neo's transformers: its own engines, modules and tokenizers, small and
random."""

from __future__ import annotations

import dataclasses
import importlib
import json
from pathlib import Path
from typing import Any
from unittest import mock

import torch
import transformers
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
        words: the text encoder's class in ``backend.nn.llm.llama``; "T5", or "CLIP" and T5.
        files: folder of the tokenizer in ``backend/huggingface``.
        vae: "image", "video" (Wan's) or "flux2".
        layers: of the text encoder.
        flag: what its own loader sets in ``dynamic_args``.
    """

    engine: tuple[str, str]
    guess: str
    network: tuple[str, str]
    arguments: dict[str, Any]
    words: str
    files: str
    vae: str = "image"
    layers: int = 3
    flag: str = ""


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
        ("flux", "Flux"), "Flux", ("flux", "IntegratedFluxTransformer2DModel"), FLUX, "CLIP",
        "black-forest-labs/FLUX.1-dev",
    ),
    "flux2": Model(
        ("flux2", "Flux2"), "Flux2K4B", ("flux", "IntegratedFluxTransformer2DModel"),
        {**FLUX, "in_channels": 128, "out_channels": 128, "vec_in_dim": None, "patch_size": 1,
         "context_in_dim": 192, "mlp_ratio": 3.0, "axes_dim": [8, 8, 8, 8], "theta": 2000,
         "qkv_bias": False, "guidance_embed": False, "txt_ids_dims": [3], "ops_bias": False,
         "global_modulation": True, "mlp_silu_act": True},
        "Qwen3_4B", "black-forest-labs/FLUX.2-klein-4B", vae="flux2", layers=28, flag="klein",
    ),
    "z-image": Model(
        ("zimage", "ZImage"), "ZImage", ("lumina", "NextDiT"),
        {**LUMINA, "dim": 256, "n_heads": 16, "z_image_modulation": True, "time_scale": 1000.0,
         "pad_tokens_multiple": 32, "rope_theta": 256.0},
        "Qwen3_4B", "Tongyi-MAI/Z-Image-Turbo",
    ),
    "anima": Model(
        ("anima", "Anima"), "Anima", ("anima", "Anima"),
        {"in_channels": 16, "out_channels": 16, "patch_spatial": 2, "patch_temporal": 1,
         "model_channels": 64, "crossattn_emb_channels": 64, "adaln_lora_dim": 8, "num_blocks": 2,
         "num_heads": 2, "rope_h_extrapolation_ratio": 4.0, "rope_w_extrapolation_ratio": 4.0},
        "Qwen3_06B", "circlestone-labs/Anima", vae="video",
    ),
    "krea": Model(
        ("krea", "Krea2"), "Krea2", ("krea", "SingleStreamDiT"),
        {"features": 64, "tdim": 32, "txtdim": 64, "heads": 4, "kvheads": 2, "layers": 2,
         "txtheads": 2, "txtkvheads": 2},
        "Qwen3VL", "krea/Krea-2-Raw", vae="video", layers=36, flag="krea2",
    ),
    "wan": Model(
        ("wan", "Wan"), "WAN21_T2V", ("wan", "WanModel"),
        {"dim": 64, "ffn_dim": 64, "freq_dim": 32, "text_dim": T5_WIDTH, "num_heads": 2,
         "num_layers": 2},
        "T5", "Wan-AI/Wan2.1-T2V-14B", vae="video", flag="wan",
    ),
    "ernie": Model(
        ("ernie", "ErnieImage"), "ErnieImage", ("ernie", "ErnieImageModel"),
        {"hidden_size": 64, "num_attention_heads": 2, "num_layers": 2, "ffn_hidden_size": 64,
         "text_in_dim": 64, "rope_axes_dim": (8, 12, 12)},
        "Ministral3_3B", "baidu/ERNIE-Image", vae="flux2",
    ),
    "chroma": Model(
        ("chroma", "Chroma"), "Chroma", ("chroma", "IntegratedChromaTransformer2DModel"),
        {**{name: value for name, value in FLUX.items() if name != "guidance_embed"},
         "in_channels": 64, "out_channels": 64, "vec_in_dim": None, "in_dim": 64, "out_dim": 64,
         "hidden_dim": 32, "n_layers": 2, "txt_ids_dims": []},
        "T5", "Chroma",
    ),
    "pid": Model(
        ("pid", "PiD"), "PiD", ("pixeldit.pid", "PidNet"),
        {"hidden_size": 64, "num_groups": 2, "pixel_hidden_size": 16, "pixel_attn_hidden_size": 32,
         "pixel_num_groups": 2, "patch_depth": 2, "pixel_depth": 1, "txt_embed_dim": 64,
         "lq_hidden_dim": 16, "lq_num_res_blocks": 1},
        "Gemma2_2B", "nvidia/PiD", flag="pid",
    ),
}  # fmt: skip


def put_in(host: Any, name: str) -> None:
    """Make one of :data:`MODELS` the model that a running Forge Neo has loaded."""
    from backend import memory_management
    from backend.args import dynamic_args
    from backend.operations import using_forge_operations
    from modules import processing
    from modules_forge.packages.huggingface_guess import model_list

    model = MODELS[name]
    guess = getattr(model_list, model.guess)({})
    guess.model_type = guess.model_type({})  # as its own loader does
    module = importlib.import_module(f"backend.nn.{model.network[0]}")
    with using_forge_operations(device=torch.device("cpu"), dtype=torch.float32):
        network = getattr(module, model.network[1])(**model.arguments)
    network = randomised(network, 11).float()
    if not hasattr(network, "_internal_dict"):
        network.config = dict(model.arguments)  # for LoRA
    network.storage_dtype = network.computation_dtype = torch.float32
    device = memory_management.get_torch_device()
    network.load_device = network.offload_device = network.initial_device = device
    home = Path(host.folder) / "backend/huggingface" / model.files
    dynamic_args.reset()
    parts = {"transformer": network, "vae": _vae(model.vae), **_words(model, home)}
    module = importlib.import_module(f"backend.diffusion_engine.{model.engine[0]}")
    engine = getattr(module, model.engine[1])(guess, parts)
    flagged(model.flag)
    put_engine_in(host, engine)
    ratio = engine.forge_objects.vae.upscale_ratio  # as its own loader does
    processing.opt_f = ratio if isinstance(ratio, int) else 8


def flagged(name: str) -> None:
    """What Neo's own loader notes of a model that others have to know."""
    from backend.args import dynamic_args

    for flag in ("klein", "krea2", "wan", "pid"):
        setattr(dynamic_args, flag, flag == name)


def _words(model: Model, home: Path) -> dict[str, Any]:
    if model.words == "CLIP":
        return _two_encoders(home)
    if model.words == "T5":
        return _t5(home)
    parts = {"text_encoder": _language_model(model)}
    index = json.loads((home / "model_index.json").read_text())
    for name in [name for name in index if name.startswith("tokenizer")]:
        parts[name] = getattr(transformers, index[name][1]).from_pretrained(home / name)
    return parts


def _language_model(model: Model) -> nn.Module:
    from backend.nn.llm import llama
    from backend.operations import using_forge_operations

    name = {"Qwen3VL": "Qwen3VL_4B"}.get(model.words, model.words)
    config = getattr(llama, f"{name}Config", None) or getattr(llama, f"{name}_Config")
    own = config.__init__

    def small(self: Any) -> None:
        own(self, **{**WORDS, "num_hidden_layers": model.layers})

    adapter = llama.LLMAdapter
    narrow = {"source_dim": 64, "target_dim": 64, "model_dim": 64, "num_layers": 2, "num_heads": 2}
    operations = using_forge_operations(device=torch.device("cpu"), dtype=torch.float32)
    with (
        mock.patch.object(config, "__init__", small),
        mock.patch.object(config, "head_dim", 32),
        mock.patch.object(llama.qwen_vl, "Qwen2VLVisionTransformer", _no_eye),
        mock.patch.object(llama, "Qwen3VLVisionModel", _no_eye),
        mock.patch.object(llama, "LLMAdapter", lambda: adapter(**narrow)),
        operations,  # its norms have an argument more
    ):
        encoder = randomised(getattr(llama, model.words)({}), 3)
    encoder.model.config.head_dim = 32
    return encoder


def _no_eye(*given: Any, **options: Any) -> nn.Module:
    return nn.Identity()


def _two_encoders(home: Path) -> dict[str, Any]:
    from backend.nn.clip import IntegratedCLIP
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

    config = CLIPTextConfig.from_json_file(home / "text_encoder/config.json")
    config.update(CLIP)
    t5 = _t5(home, "_2")
    return {
        "text_encoder": randomised(IntegratedCLIP(CLIPTextModel, config), 1),
        "tokenizer": CLIPTokenizer.from_pretrained(home / "tokenizer"),
        **{f"{name}_2": part for name, part in t5.items()},
    }


def _t5(home: Path, number: str = "") -> dict[str, Any]:
    from backend.nn.t5 import IntegratedT5
    from transformers import PreTrainedTokenizerFast

    t5 = json.loads((home / f"text_encoder{number}/config.json").read_text())
    t5 |= {"d_model": T5_WIDTH, "d_ff": 64, "d_kv": 16, "num_heads": 4, "num_layers": 2}
    file = home / f"tokenizer{number}/tokenizer.json"
    if not file.is_file():  # Chroma's is Flux's
        file = home.parent / "black-forest-labs/FLUX.1-dev/tokenizer_2/tokenizer.json"
    words = PreTrainedTokenizerFast(
        tokenizer_file=str(file), eos_token="</s>", pad_token="<pad>", unk_token="<unk>"
    )
    return {"text_encoder": randomised(IntegratedT5(t5), 3), "tokenizer": words}


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
