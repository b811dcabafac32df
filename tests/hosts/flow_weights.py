"""Tiny flow networks in files of the kinds that people load, read by Forge main's own loader."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import torch
from torch import nn

CLASSES = {"flux": "FluxTransformer2DModel", "chroma": "ChromaTransformer2DModel"}
KINDS = ("safetensors", "fp8", "gguf", "nf4")


def from_file(network: nn.Module, name: str, weights: str, config: dict, folder: Path) -> nn.Module:
    """The network written to a file of that kind, and loaded again as the host loads it.

    Forge's guess goes by shapes for Stable Diffusion 3; for Flux and Chroma its sizes are
    constants, so that a tiny one's are given.
    """
    from backend.loader import load_huggingface_component
    from backend.utils import load_torch_file
    from huggingface_guess.detection import detect_unet_config

    path = _written(network.state_dict(), name, weights, folder)
    state = load_torch_file(str(path))
    if name.startswith("sd3"):
        config = detect_unet_config(state, "")
    guess = SimpleNamespace(unet_config=config, supported_inference_dtypes=[torch.float32])
    kind = CLASSES.get(name, "SD3Transformer2DModel")
    return load_huggingface_component(guess, "transformer", "diffusers", kind, "", state)


def is_of_kind(network: nn.Module, weights: str) -> bool:
    """Whether a network's projections are held as these weights are."""
    held = [
        module.weight
        for name, module in network.named_modules()
        if isinstance(getattr(module, "weight", None), torch.Tensor) and name.endswith("qkv")
    ]
    found = {
        "safetensors": lambda weight: weight.dtype == torch.float32,
        "fp8": lambda weight: weight.dtype == torch.float8_e4m3fn,
        "gguf": lambda weight: getattr(weight, "gguf_cls", None) is not None,
        "nf4": lambda weight: getattr(weight, "quant_state", None) is not None,
    }[weights]
    return bool(held) and all(map(found, held))


def _written(state: dict[str, torch.Tensor], name: str, weights: str, folder: Path) -> Path:
    from safetensors.torch import save_file

    path = folder / f"{name}-{weights}.{'gguf' if weights == 'gguf' else 'safetensors'}"
    if weights == "gguf":
        _write_gguf(path, state)
        return path
    if weights == "fp8":
        state = {key: value.to(torch.float8_e4m3fn) for key, value in state.items()}
    if weights == "nf4":
        state = _quantised(state)
    save_file({key: value.contiguous() for key, value in state.items()}, str(path))
    return path


def _write_gguf(path: Path, state: dict[str, torch.Tensor]) -> None:
    import gguf

    writer = gguf.GGUFWriter(str(path), "any")
    for key, value in state.items():
        numbers = value.float().numpy()
        if value.ndim == 2 and value.shape[-1] % 32 == 0 and "block" in key:
            kind = gguf.GGMLQuantizationType.Q8_0
            writer.add_tensor(key, gguf.quants.quantize(numbers, kind), raw_dtype=kind)
        else:
            writer.add_tensor(key, numbers)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _quantised(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """As bitsandbytes packs projections: all, for what is plain the host packs on a GPU alone."""
    from bitsandbytes.functional import quantize_4bit

    made = dict(state)
    for key, value in state.items():
        if value.ndim == 2 and key.endswith(".weight"):
            packed, how = quantize_4bit(value.float(), blocksize=64, quant_type="nf4")
            made[key] = packed
            made |= {f"{key}.{name}": part for name, part in how.as_dict(packed=True).items()}
    return made
