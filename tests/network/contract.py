"""What AsynDM's hooks rely on in a WebUI's transformer, recorded from the host's own module.

By hand, in the folder and the environment of a WebUI:

    PYTHONPATH=.:<this folder> python <this folder>/contract.py a1111_sd3 > contract-a1111_sd3.json

(without a GPU, in Forge: ``--always-cpu`` ahead of the name; in Neo: ``--cpu --force-fp32
--use-pytorch-cross-attention --disable-triton-backend``).

It builds the host's module at the look-alike's size with weights by their names, calls it once, and
writes classes, shapes, numbers that hooks read, order and kinds of the calls, and what comes out.
CI compares the look-alike (lookalikes.py) with the record.
"""

from __future__ import annotations

import importlib
import json
import sys
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers_tiny import CONTEXT, POOLED, TEXT, randomise

DATA = Path(__file__).resolve().parents[1] / "data"
CONTEXT_EMBEDDER = {
    "target": "torch.nn.Linear", "params": {"in_features": CONTEXT, "out_features": None}
}  # fmt: skip
FLUX = {
    "in_channels": 16, "vec_in_dim": POOLED, "context_in_dim": CONTEXT, "hidden_size": 32,
    "mlp_ratio": 4.0, "num_heads": 2, "depth": 2, "depth_single_blocks": 2,
    "axes_dim": [4, 6, 6], "theta": 10000, "qkv_bias": True,
}  # fmt: skip
CHROMA = {"guidance_out_dim": 32, "guidance_hidden_dim": 24, "guidance_n_layers": 2}


def _mmdit(depth: int) -> dict[str, Any]:
    embedder = {**CONTEXT_EMBEDDER, "params": {"in_features": CONTEXT, "out_features": 64 * depth}}
    return {
        "input_size": None, "patch_size": 2, "in_channels": 16, "depth": depth, "num_patches": 64,
        "pos_embed_max_size": 8, "adm_in_channels": POOLED, "context_embedder_config": embedder,
    }  # fmt: skip


LUMINA = {
    "in_channels": 16, "dim": 32, "n_layers": 2, "n_refiner_layers": 1, "n_heads": 2,
    "multiple_of": 16, "qk_norm": True, "cap_feat_dim": CONTEXT, "axes_dims": (4, 6, 6),
}  # fmt: skip
Z_IMAGE = {
    "dim": 256, "n_heads": 16, "z_image_modulation": True, "time_scale": 1000.0,
    "pad_tokens_multiple": 32, "rope_theta": 256.0,
}  # fmt: skip
NEO_FLUX = {
    "in_channels": 16, "out_channels": 16, "context_in_dim": CONTEXT, "hidden_size": 32,
    "num_heads": 2, "depth": 2, "depth_single_blocks": 2,
}  # fmt: skip
FLUX_ONE = {
    "vec_in_dim": POOLED, "mlp_ratio": 4.0, "axes_dim": [4, 6, 6], "theta": 10000,
    "patch_size": 2, "qkv_bias": True, "guidance_embed": True,
}  # fmt: skip
FLUX_TWO = {
    "vec_in_dim": None, "mlp_ratio": 3.0, "axes_dim": [4, 4, 4, 4], "theta": 2000,
    "patch_size": 1, "qkv_bias": False, "guidance_embed": False, "txt_ids_dims": [3],
    "global_modulation": True, "mlp_silu_act": True, "ops_bias": False,
}  # fmt: skip
# Its channels are those of a patch; it makes the whole model's 344 vectors whatever its depth.
NEO_CHROMA = {
    **NEO_FLUX, "in_channels": 64, "out_channels": 64, "mlp_ratio": 4.0, "axes_dim": [4, 6, 6],
    "theta": 10000, "patch_size": 2, "qkv_bias": True, "in_dim": 64, "out_dim": 32,
    "hidden_dim": 24, "n_layers": 2, "txt_ids_dims": [], "vec_in_dim": None,
}  # fmt: skip

# name -> (module, class, its arguments, the unit of its timestep)
OWN = {
    "a1111_sd3": ("modules.models.sd3.mmdit", "MMDiT", _mmdit(2), 1000.0),
    "forge_sd3": ("backend.nn.mmditx", "MMDiTX", _mmdit(2), 1000.0),
    "forge_sd35": (
        "backend.nn.mmditx", "MMDiTX",
        {**_mmdit(3), "qk_norm": "rms", "x_block_self_attn_layers": [0, 1], "register_length": 2},
        1000.0,
    ),
    "forge_flux": (
        "backend.nn.flux", "IntegratedFluxTransformer2DModel", {**FLUX, "guidance_embed": True}, 1.0
    ),
    "forge_chroma": (
        "backend.nn.chroma", "IntegratedChromaTransformer2DModel", {**FLUX, **CHROMA}, 1.0
    ),
    "neo_flux": (
        "backend.nn.flux", "IntegratedFluxTransformer2DModel", {**NEO_FLUX, **FLUX_ONE}, 1.0
    ),
    "neo_flux2": (
        "backend.nn.flux", "IntegratedFluxTransformer2DModel", {**NEO_FLUX, **FLUX_TWO}, 1.0
    ),
    "neo_chroma": (
        "backend.nn.chroma", "IntegratedChromaTransformer2DModel", NEO_CHROMA, 1.0
    ),
    "neo_anima": (
        "backend.nn.anima", "Anima",
        {"in_channels": 16, "out_channels": 16, "patch_spatial": 2, "patch_temporal": 1,
         "model_channels": 64, "crossattn_emb_channels": CONTEXT, "adaln_lora_dim": 8,
         "num_blocks": 2, "num_heads": 2, "rope_h_extrapolation_ratio": 4.0,
         "rope_w_extrapolation_ratio": 4.0},
        1.0,
    ),
    "neo_wan": (
        "backend.nn.wan", "WanModel",
        {"dim": 32, "ffn_dim": 64, "freq_dim": 32, "text_dim": CONTEXT, "num_heads": 2,
         "num_layers": 2},
        1000.0,
    ),
    "neo_krea": (
        "backend.nn.krea", "SingleStreamDiT",
        {"features": 32, "tdim": 32, "txtdim": 8, "heads": 2, "kvheads": 1, "layers": 2,
         "txtlayers": 3, "txtheads": 2, "txtkvheads": 2},
        1.0,
    ),
    "neo_ernie": (
        "backend.nn.ernie", "ErnieImageModel",
        {"hidden_size": 32, "num_attention_heads": 2, "num_layers": 2, "ffn_hidden_size": 64,
         "in_channels": 16, "out_channels": 16, "text_in_dim": CONTEXT,
         "rope_axes_dim": (4, 6, 6)},
        1000.0,
    ),
    "neo_qwen": (
        "backend.nn.qwen", "QwenImageTransformer2DModel",
        {"num_layers": 2, "attention_head_dim": 16, "num_attention_heads": 2,
         "joint_attention_dim": CONTEXT, "axes_dims_rope": (4, 6, 6)},
        1.0,
    ),
    "neo_lumina": ("backend.nn.lumina", "NextDiT", {**LUMINA, "n_kv_heads": 1}, 1.0),
    "neo_z_image": ("backend.nn.lumina", "NextDiT", {**LUMINA, **Z_IMAGE}, 1.0),
}  # fmt: skip


# Numbers of a network that a family's file asks for.
READ = ("patch_size", "patch", "patch_spatial", "register_length", "pad_tokens_multiple")
WITH_POOLED = ("a1111_sd3", "forge_sd3", "forge_sd35", "forge_flux", "neo_flux")
FRAMES = ("neo_qwen", "neo_anima", "neo_wan", "neo_krea")  # latents of one frame


def given(name: str) -> dict[str, Any]:
    """The arguments of the call, as the host gives them."""
    generator = torch.Generator().manual_seed(3)
    shapes = {"x": (2, 16, 8, 12), "context": (2, TEXT, CONTEXT), "y": (2, POOLED)}
    values: dict[str, Any] = {
        key: torch.randn(*shape, generator=generator) for key, shape in shapes.items()
    }
    values["timestep"] = torch.tensor([0.6, 0.3]) * OWN[name][3]
    if name in ("forge_flux", "neo_flux"):
        values["guidance"] = torch.full((2,), 3.5)
    if name in FRAMES:
        values["x"] = values["x"][:, :, None]
    if name not in WITH_POOLED:
        del values["y"]
    return values


def record(network: nn.Module, name: str) -> dict[str, Any]:
    """Classes, parameters, calls and results of one network call."""
    calls: list[list[Any]] = []

    def seen(path: str):
        def hook(module: nn.Module, args: tuple, kwargs: dict, output: Any) -> None:
            kinds = {key: _kind(value) for key, value in sorted(kwargs.items())}
            calls.append([path, [_kind(arg) for arg in args], kinds, _kind(output), _size(output)])

        return hook

    handles = [
        module.register_forward_hook(seen(path), with_kwargs=True)
        for path, module in network.named_modules()
        if path
    ]
    values = given(name)
    try:
        with torch.no_grad():
            output = network(values.pop("x"), values.pop("timestep"), **values)
    finally:
        for handle in handles:
            handle.remove()
    return {
        "classes": {path: type(module).__name__ for path, module in network.named_modules()},
        "parameters": {key: list(p.shape) for key, p in network.named_parameters()},
        "told": _told(network),
        "calls": calls,
        "output": [round(float(value), 6) for value in output.flatten()[::37]],
    }


def _told(network: nn.Module) -> dict[str, Any]:
    """What hooks read of a network besides its modules: numbers, and norms without a weight."""
    own = {name: getattr(network, name) for name in READ if hasattr(network, name)}
    own = {n: list(v) if isinstance(v, tuple) else v for n, v in own.items()}  # as JSON has them
    empty = [
        path for path, module in network.named_modules() if getattr(module, "weight", path) is None
    ]
    return {**own, "without weight": sorted(empty)}


def _kind(value: Any) -> Any:
    if isinstance(value, Tensor):
        return list(value.shape)
    if isinstance(value, (tuple, list)):
        return [_kind(each) for each in value]
    return type(value).__name__


def _size(value: Any) -> float:
    """Mean size of what comes out; a chunk in another's place changes it."""
    while isinstance(value, (tuple, list)):
        value = value[-1]
    return float(f"{float(value.float().abs().mean()):.6g}") if isinstance(value, Tensor) else 0.0


def build(name: str) -> nn.Module:
    """The host's own module."""
    module, kind, arguments, _ = OWN[name]
    if module.startswith("modules."):  # its modules import each other in a circle
        importlib.import_module("modules.initialize").imports()
    sys.path += ["packages_3rdparty", "modules_forge/packages"]  # Forge's and Neo's gguf
    return randomise(getattr(importlib.import_module(module), kind)(**arguments).float())


if __name__ == "__main__":
    sys.stdout, out = sys.stderr, sys.stdout
    asked = sys.argv.pop()  # the host reads what is left
    json.dump(record(build(asked), asked), out, separators=(",", ":"))
