"""Tiny rectified-flow models for real hosts: their own engines and modules, small and random."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
import torch.nn.functional as F
from flow_weights import from_file
from torch import nn

CLIP = {"hidden_size": 64, "intermediate_size": 128, "num_attention_heads": 4}
CLIP |= {"num_hidden_layers": 3, "projection_dim": 64}
T5_WIDTH = 64
FLUX = {
    "in_channels": 16, "vec_in_dim": 64, "context_in_dim": T5_WIDTH, "hidden_size": 64,
    "mlp_ratio": 4.0, "num_heads": 2, "depth": 2, "depth_single_blocks": 2,
    "axes_dim": [8, 12, 12], "theta": 10000, "qkv_bias": True,
}  # fmt: skip
CHROMA = {"guidance_out_dim": 64, "guidance_hidden_dim": 32, "guidance_n_layers": 2}
T5 = {"d_model": T5_WIDTH, "d_ff": 64, "d_kv": 16, "num_heads": 4, "num_layers": 2}


def randomised(module: nn.Module, seed: int) -> nn.Module:
    generator = torch.Generator().manual_seed(seed)
    for name, values in [*module.named_parameters(), *module.named_buffers()]:
        if values.ndim > 1 and not values.is_floating_point():
            continue  # positions
        noise = torch.randn(values.shape, generator=generator)
        if values.ndim > 1:
            values.data = noise / values[0].numel() ** 0.5
        elif values.is_floating_point():
            values.data = 0.1 * noise + name.endswith(("weight", "scale"))
    return module.eval().requires_grad_(False)


def put_in(host: Any, name: str, weights: str | None = None, folder: Path | None = None) -> None:
    """Make one of sd3, sd35, flux, chroma (in Neo its own) what a real host has loaded.

    Args:
        weights: Forge main's network comes from a file of that kind: see flow_weights.py.
        folder: for the file.
    """
    if host.name == "Neo":
        import neo_models

        neo_models.put_in(host, name)
    elif host.name == "Forge":
        _forge(host, name, weights, folder)
    else:
        _a1111(host)


@contextmanager
def lent(host: Any, name: str, *options: Any) -> Iterator[None]:
    """:func:`put_in`, and afterwards the model that was there."""
    from modules import processing, sd_models

    own = host.shared.sd_model
    put_in(host, name, *options)
    forget_prompts()
    try:
        yield
    finally:
        sd_models.model_data.set_sd_model(own)
        if host.name == "Neo":
            import neo_models

            processing.opt_f = 8  # Flux.2's latents are half as wide
            neo_models.flagged("")
        forget_prompts()


@contextmanager
def lora_of(host: Any, name: str) -> Iterator[str]:
    """A LoRA of every projection in the blocks of the loaded network, as the host finds it."""
    import networks  # of the host's extension
    from safetensors.torch import save_file

    folder = Path(host.shared.cmd_opts.lora_dir)
    folder.mkdir(parents=True, exist_ok=True)
    generator, tensors = torch.Generator().manual_seed(2), {}
    for module_name, module in host.network().named_modules():
        inside = "block" in module_name or module_name.startswith("layers.")
        if isinstance(module, nn.Linear) and inside:
            wide, narrow = module.weight.shape
            key = f"lora_unet_{module_name.replace('.', '_')}"
            tensors[f"{key}.lora_down.weight"] = torch.randn(4, narrow, generator=generator) * 0.1
            tensors[f"{key}.lora_up.weight"] = torch.randn(wide, 4, generator=generator) * 0.1
    path = folder / f"of-{name}.safetensors"
    save_file(tensors, str(path))
    networks.list_available_networks()
    try:
        yield path.stem
    finally:
        path.unlink()
        networks.list_available_networks()
        vars(host.shared.sd_model).pop("diffusers_weight_map", None)  # A1111's, of its first LoRA


def forget_prompts() -> None:
    """What the host keeps of a prompt is another model's."""
    from modules import processing

    for name in ("cached_c", "cached_uc"):
        setattr(processing.StableDiffusionProcessing, name, [None, None, None])
        hires = name.replace("cached", "cached_hr")
        setattr(processing.StableDiffusionProcessingTxt2Img, hires, [None, None, None])


# --- Forge main ---


def _forge(host: Any, name: str, weights: str | None, folder: Path | None) -> None:
    from backend.diffusion_engine.chroma import Chroma
    from backend.diffusion_engine.flux import Flux
    from backend.diffusion_engine.sd35 import StableDiffusion3

    kind = {"flux": Flux, "chroma": Chroma}.get(name, StableDiffusion3)
    guess = SimpleNamespace(inpaint_model=lambda: False, huggingface_repo="tiny")
    put_engine_in(host, kind(guess, forge_parts(host, name, weights, folder)))


def put_engine_in(host: Any, engine: Any) -> None:
    """Make an engine the one that a host of the Forge family has loaded."""
    from modules import sd_models

    own = host.shared.sd_model
    for each in ("extra_generation_params", "comments", "sd_checkpoint_info", "filename"):
        setattr(engine, each, getattr(own, each))
    engine.sd_model_hash = own.sd_model_hash
    sd_models.model_data.set_sd_model(engine)


def forge_parts(
    host: Any, name: str, weights: str | None = None, folder: Path | None = None,
    whole: bool = False,
) -> dict[str, Any]:  # fmt: skip
    """What its engines are made of; ``whole``: as its guess by a file's shapes takes it."""
    from backend import memory_management
    from backend.nn.chroma import IntegratedChromaTransformer2DModel
    from backend.nn.clip import IntegratedCLIP
    from backend.nn.flux import IntegratedFluxTransformer2DModel
    from backend.nn.mmditx import MMDiTX
    from backend.nn.t5 import IntegratedT5
    from backend.nn.vae import IntegratedAutoencoderKL
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer, PreTrainedTokenizerFast

    home = Path(host.folder) / "backend/huggingface/stabilityai/stable-diffusion-3-medium-diffusers"

    def clip(number: int) -> nn.Module:
        folder = home / ("text_encoder" if number == 1 else f"text_encoder_{number}")
        config = CLIPTextConfig.from_json_file(folder / "config.json")
        config.update(CLIP)
        return randomised(IntegratedCLIP(CLIPTextModel, config, add_text_projection=True), number)

    def t5(wide: int = T5_WIDTH) -> nn.Module:
        """``wide``: what the network is told of, the encoder's own and zeros behind it."""
        config = json.loads((home / "text_encoder_3" / "config.json").read_text())
        encoder = randomised(IntegratedT5(config | T5), 3)
        if wide > T5_WIDTH:
            more = (0, wide - T5_WIDTH)
            encoder.transformer.register_forward_hook(lambda module, args, out: F.pad(out, more))
        return encoder

    vae = IntegratedAutoencoderKL(
        latent_channels=16, block_out_channels=(32, 32, 32, 32), use_quant_conv=False,
        down_block_types=("DownEncoderBlock2D",) * 4, up_block_types=("UpDecoderBlock2D",) * 4,
        use_post_quant_conv=False, scaling_factor=1.0,
    )  # fmt: skip
    clips = [CLIPTokenizer.from_pretrained(home / f"tokenizer{n}") for n in ("", "_2")]
    words = PreTrainedTokenizerFast(
        tokenizer_file=str(home / "tokenizer_3" / "tokenizer.json"),
        eos_token="</s>", pad_token="<pad>", unk_token="<unk>",
    )  # fmt: skip
    parts: dict[str, Any] = {"vae": bounded(randomised(vae, 9))}
    config: dict[str, Any] = {}
    if name == "flux":
        config = {"guidance_embed": True, **FLUX}
        network = IntegratedFluxTransformer2DModel(**config)
        parts |= {"text_encoder": clip(1), "text_encoder_2": t5()}
        parts |= {"tokenizer": clips[0], "tokenizer_2": words}
    elif name == "chroma":
        config = {**CHROMA, **FLUX}
        network = IntegratedChromaTransformer2DModel(**config)
        parts |= {"text_encoder": t5(), "tokenizer": words}
    else:
        config = mmdit()
        if name == "sd35":
            config |= {"qk_norm": "rms", "x_block_self_attn_layers": [0]}
        if name == "sd35" and (weights is not None or whole):  # by this the host knows it
            config |= {"num_patches": 384 * 384, "pos_embed_max_size": 384}
        network = MMDiTX(**config)
        parts |= {"text_encoder": clip(1), "text_encoder_2": clip(2), "text_encoder_3": t5(4096)}
        parts |= {"tokenizer": clips[0], "tokenizer_2": clips[1], "tokenizer_3": words}
    network = randomised(network, 11).float()
    network.config = config  # as the host's loader leaves it there, for LoRA
    if weights is not None:
        network = from_file(network, name, weights, config, folder)
        return {**parts, "transformer": network.eval().requires_grad_(False)}
    device = memory_management.get_torch_device()
    network.storage_dtype = network.computation_dtype = torch.float32
    network.load_device = network.offload_device = network.initial_device = device
    return {**parts, "transformer": network}


def mmdit(depth: int = 3) -> dict[str, Any]:
    """A small MMDiT's arguments; the hosts pad what the text encoders say to 4096."""
    shape = {"in_features": 4096, "out_features": 64 * depth}
    return {
        "input_size": None, "patch_size": 2, "in_channels": 16, "depth": depth,
        "num_patches": 32 * 32, "pos_embed_max_size": 32, "adm_in_channels": 128,
        "context_embedder_config": {"target": "torch.nn.Linear", "params": shape},
    }  # fmt: skip


def bounded(vae: nn.Module, frames: bool = False) -> nn.Module:
    """Pictures with some contrast, neither grey nor clipped."""
    channels = getattr(vae, "embed_dim", 16)
    shape = (2, 16, 1, 8, 8) if frames else (2, channels, 8, 8)
    latents = torch.randn(shape, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        last = vae.decoder.head[-1] if frames else vae.decoder.conv_out
        last.weight *= 0.4 / (vae.decode if frames else vae.decoder)(latents).std()
        last.bias *= 0
    return vae


# --- AUTOMATIC1111 ---


def _a1111(host: Any) -> None:
    from modules import sd_hijack, sd_models

    model = a1111_sd3(host)
    sampling = model.model.model_sampling
    sampling.sigmas = sampling.sigma(torch.arange(1, 1001, 1))
    own = host.shared.sd_model
    sd_models.set_model_fields(model)
    for name in ("sd2", "sdxl", "ssd", "sd1", "sdxl_inpaint"):
        setattr(model, f"is_{name}", False)
    model.is_sd3, model.lowvram = True, False
    model.alphas_cumprod_original = model.alphas_cumprod
    for name in ("sd_model_hash", "sd_model_checkpoint", "sd_checkpoint_info", "used_config"):
        setattr(model, name, getattr(own, name, None))
    sd_hijack.model_hijack.hijack(model)
    sd_models.model_data.set_sd_model(model)
    import networks  # of its own extension, which does this when a model is loaded

    networks.assign_network_names_to_compvis_modules(model)


def a1111_sd3(host: Any) -> nn.Module:
    """Its own Stable Diffusion 3, with a T5 that the host's setting switches on."""
    from modules.models.sd3 import other_impls, sd3_cond, sd3_model

    small = {name: value for name, value in CLIP.items() if name != "projection_dim"}
    for config in (sd3_cond.CLIPL_CONFIG, sd3_cond.CLIPG_CONFIG):
        config.update(small)
    sd3_cond.T5_CONFIG.update({name: value for name, value in T5.items() if name != "d_kv"})
    try:
        sd3_cond.T5TokenizerFast.from_pretrained("google/t5-v1_1-xxl")
    except OSError:  # it is on the hub, and no part of the host
        sd3_cond.T5TokenizerFast = SimpleNamespace(from_pretrained=lambda name: _no_words)
        other_impls.T5XXLTokenizer = SimpleNamespace
    width, prefix = 192, "model.diffusion_model."
    shapes = {
        "x_embedder.proj.weight": (width, 16, 2, 2), "pos_embed": (1, 32 * 32, width),
        "y_embedder.mlp.0.weight": (width, 128), "context_embedder.weight": (width, 4096),
    }  # fmt: skip
    options, t5 = host.shared.opts.data, host.shared.opts.sd3_enable_t5
    options["sd3_enable_t5"] = True  # it is built, but off
    try:
        model = sd3_model.SD3Inferencer(
            {prefix + name: torch.zeros(shape) for name, shape in shapes.items()}
        )
    finally:
        options["sd3_enable_t5"] = t5
    model = randomised(model.float(), 11)
    model.text_encoders.t5xxl.register_forward_hook(_as_wide_as_clip)
    latents = torch.randn(1, 16, 8, 8, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        decoder = model.first_stage_model.decoder
        decoder.conv_out.weight *= 0.4 / decoder(latents).std()
    return model


def _as_wide_as_clip(module: nn.Module, args: tuple, output: tuple) -> tuple:
    return (F.pad(output[0], (0, 4096 - T5_WIDTH)), *output[1:])


def _no_words(texts: Any, **options: Any) -> dict[str, list]:
    return {"input_ids": [1, 0] if isinstance(texts, str) else [[] for _ in texts]}
