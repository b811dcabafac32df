"""Stable Diffusion in miniature: random weights in the real folder layout of diffusers."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import pytest
import torch
from clip_pieces import ids, merges

WIDTH = 24
T5_WIDTH = 64


def words() -> None:
    """Skip the test where no text encoder can be built."""
    pytest.importorskip("transformers", reason="pip install 'asyndm[bench]'")
    if importlib.util.find_spec("clip") is None:
        pytest.skip("CLIP's vocabulary: requirements/networks.txt")


def _clip_config() -> dict:
    return {
        "vocab_size": len(ids()), "hidden_size": WIDTH, "intermediate_size": 32,
        "num_hidden_layers": 2, "num_attention_heads": 2, "projection_dim": WIDTH,
        "bos_token_id": 49406, "eos_token_id": 49407,
    }  # fmt: skip


def _clip_tokenizer(folder: Path):
    import transformers

    folder.mkdir(parents=True)
    (folder / "vocab.json").write_text(json.dumps(ids()), "utf-8")
    lines = ["#version: 0.2", *(" ".join(pair) for pair in merges())]
    (folder / "merges.txt").write_text("\n".join(lines) + "\n", "utf-8")
    return transformers.CLIPTokenizer(
        str(folder / "vocab.json"), str(folder / "merges.txt"), model_max_length=77
    )


def save(
    folder: Path,
    xl: bool = False,
    two: bool = False,
    inpaints: bool = False,
    second: int = WIDTH,
    **scheduler,
) -> Path:
    """Write a checkpoint of the kind of Stable Diffusion 1.5, 2.1 or XL; its latents are 16x16.

    Args:
        two: of 2.1, which predicts v.
        inpaints: its network takes a mask and the masked picture, nine channels.
        second: the width of XL's second text encoder.
        scheduler: changes of its configuration.
    """
    words()
    import diffusers
    import transformers

    tokenizer = _clip_tokenizer(folder / "words")
    text = _clip_config()
    torch.manual_seed(0)
    unet = {
        "sample_size": 16, "block_out_channels": (32, 64), "layers_per_block": 1,
        "cross_attention_dim": WIDTH, "attention_head_dim": 4, "norm_num_groups": 8,
        "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
        "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"),
    }  # fmt: skip
    if xl:
        unet |= {
            "cross_attention_dim": WIDTH + second, "addition_embed_type": "text_time",
            "addition_time_embed_dim": 8, "projection_class_embeddings_input_dim": 6 * 8 + second,
            "use_linear_projection": True,
        }  # fmt: skip
    if two:
        unet |= {"use_linear_projection": True, "attention_head_dim": (2, 4)}
        scheduler = {"prediction_type": "v_prediction", **scheduler}
    if inpaints:
        unet |= {"in_channels": 9}
    parts = {
        "unet": diffusers.UNet2DConditionModel(**unet),
        "vae": diffusers.AutoencoderKL(
            block_out_channels=(8, 8), down_block_types=("DownEncoderBlock2D",) * 2,
            up_block_types=("UpDecoderBlock2D",) * 2, norm_num_groups=4, latent_channels=4,
            sample_size=32,
        ),
        "tokenizer": tokenizer,
        "text_encoder": transformers.CLIPTextModel(transformers.CLIPTextConfig(**text)),
        "scheduler": diffusers.DDIMScheduler(**{
            "beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear",
            "clip_sample": False, "set_alpha_to_one": False, "steps_offset": 1, **scheduler,
        }),
    }  # fmt: skip
    kind = f"StableDiffusion{'XL' if xl else ''}{'Inpaint' if inpaints else ''}Pipeline"
    if xl:
        text |= {"hidden_size": second, "projection_dim": second}
        wide = transformers.CLIPTextModelWithProjection(transformers.CLIPTextConfig(**text))
        parts |= {"text_encoder_2": wide, "tokenizer_2": tokenizer}
    else:
        parts |= {
            "safety_checker": None, "feature_extractor": None, "requires_safety_checker": False,
        }  # fmt: skip
    pipe = getattr(diffusers, kind)(**parts)
    pipe.save_pretrained(folder / "model")
    return folder / "model"


def save_control(folder: Path, model: Path) -> Path:
    """Write a ControlNet for a checkpoint of :func:`save`, with hints that are not 0."""
    import diffusers

    unet = diffusers.UNet2DConditionModel.from_pretrained(model / "unet")
    torch.manual_seed(1)
    control = diffusers.ControlNetModel.from_unet(unet, conditioning_embedding_out_channels=(8, 16))
    for weights in control.parameters():
        if not weights.any():
            torch.nn.init.normal_(weights, std=0.02)
    control.save_pretrained(folder)
    return folder


def save_flow(folder: Path, flux: bool = False, t5: bool = True, **scheduler) -> Path:
    """Write a checkpoint of the kind of Stable Diffusion 3.5-medium or Flux.1-dev.

    Latents are of 16 channels, 16x16; pictures are 32x32.

    Args:
        t5: with T5, which Stable Diffusion 3 does without.
        scheduler: changes of its configuration.
    """
    words()
    import diffusers
    import transformers

    tokenizer = _clip_tokenizer(folder / "words")
    text = _clip_config()
    torch.manual_seed(0)
    network = {
        "num_layers": 2, "attention_head_dim": 8, "num_attention_heads": 4,
        "joint_attention_dim": T5_WIDTH, "pooled_projection_dim": WIDTH if flux else 2 * WIDTH,
    }  # fmt: skip
    if flux:
        network |= {
            "in_channels": 64, "num_single_layers": 2, "guidance_embeds": True,
            "axes_dims_rope": (2, 2, 4),
        }  # fmt: skip
        network = diffusers.FluxTransformer2DModel(**network)
    else:
        network = diffusers.SD3Transformer2DModel(
            **network, sample_size=16, in_channels=16, out_channels=16, caption_projection_dim=32,
            pos_embed_max_size=12, dual_attention_layers=(0,), qk_norm="rms_norm",
        )  # fmt: skip
    for parameter in network.parameters():  # each layer counts, biases too
        if parameter.ndim > 1:
            torch.nn.init.normal_(parameter, std=parameter[0].numel() ** -0.5)
    encoder = transformers.CLIPTextModel if flux else transformers.CLIPTextModelWithProjection
    clip = encoder(transformers.CLIPTextConfig(**text)).eval()
    parts = {
        "transformer": network.eval(),
        "vae": diffusers.AutoencoderKL(
            block_out_channels=(8, 8), down_block_types=("DownEncoderBlock2D",) * 2,
            up_block_types=("UpDecoderBlock2D",) * 2, norm_num_groups=4, latent_channels=16,
            sample_size=32, shift_factor=0.1, scaling_factor=0.4, use_quant_conv=False,
            use_post_quant_conv=False,
        ).eval(),
        "tokenizer": tokenizer,
        "text_encoder": clip,
        "scheduler": diffusers.FlowMatchEulerDiscreteScheduler(
            **{"shift": 3.0, "use_dynamic_shifting": flux, **scheduler}
        ),
    }  # fmt: skip
    big = transformers.T5EncoderModel(
        transformers.T5Config(
            vocab_size=len(_T5_PIECES), d_model=T5_WIDTH, d_ff=32, d_kv=8, num_heads=4,
            num_layers=2, feed_forward_proj="gated-gelu",
        )
    ).eval()  # fmt: skip
    if flux:
        pipe = diffusers.FluxPipeline(
            **parts, text_encoder_2=big, tokenizer_2=_t5_tokenizer(folder / "t5")
        )
    else:
        second = transformers.CLIPTextModelWithProjection(transformers.CLIPTextConfig(**text))
        pipe = diffusers.StableDiffusion3Pipeline(
            **parts, text_encoder_2=second.eval(), tokenizer_2=tokenizer,
            text_encoder_3=big if t5 else None,
            tokenizer_3=_t5_tokenizer(folder / "t5") if t5 else None,
        )  # fmt: skip
    pipe.save_pretrained(folder / "model")
    return folder / "model"


# Words of the tests' prompts, and letters for all others.
_T5_WORDS = "a the cat s cats bike riding two and red umbrella dog photo of rain"
_T5_PIECES = ["<pad>", "</s>", "<unk>", "\u2581"]
_T5_PIECES += ["\u2581" + word for word in _T5_WORDS.split()]
_T5_PIECES += list("abcdefghijklmnopqrstuvwxyz")


def _t5_tokenizer(folder: Path):
    """T5's, with few pieces."""
    import transformers
    from tokenizers import Tokenizer, models, pre_tokenizers, processors

    scores = [(piece, 0.0 if n < 3 else -float(3 * (len(piece) == 1) + 2))
              for n, piece in enumerate(_T5_PIECES)]  # fmt: skip
    tokenizer = Tokenizer(models.Unigram(scores, unk_id=2))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.post_processor = processors.TemplateProcessing(
        "$A </s>", special_tokens=[("</s>", 1)]
    )
    return transformers.T5TokenizerFast(
        tokenizer_object=tokenizer, extra_ids=0, pad_token="<pad>", eos_token="</s>",
        unk_token="<unk>", model_max_length=512,
    )  # fmt: skip
