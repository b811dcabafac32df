"""Weights of scores in miniature: random, in the folder layouts of the real ones."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from clip_pieces import ids, merges
from torch import nn

WIDTH = 64


def clip(folder: Path) -> Path:
    """A CLIP in transformers' layout: 32x32 pixels, the real vocabulary."""
    import transformers

    folder.mkdir(parents=True)
    (folder / "vocab.json").write_text(json.dumps(ids()), "utf-8")
    lines = ["#version: 0.2", *(" ".join(pair) for pair in merges())]
    (folder / "merges.txt").write_text("\n".join(lines) + "\n", "utf-8")
    transformers.CLIPTokenizer(
        str(folder / "vocab.json"), str(folder / "merges.txt"), model_max_length=77
    ).save_pretrained(folder)
    torch.manual_seed(1)
    text = {
        "vocab_size": len(ids()), "hidden_size": 32, "intermediate_size": 32,
        "num_hidden_layers": 2, "num_attention_heads": 2, "eos_token_id": 49407,
        "bos_token_id": 49406,
    }  # fmt: skip
    vision = {
        "hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 2,
        "num_attention_heads": 2, "image_size": 32, "patch_size": 8,
    }  # fmt: skip
    config = transformers.CLIPConfig(
        text_config=text, vision_config=vision, projection_dim=16, logit_scale_init_value=3.0
    )
    transformers.CLIPModel(config).save_pretrained(folder)
    transformers.CLIPImageProcessor(
        size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32}
    ).save_pretrained(folder)
    return folder


def image_reward(folder: Path) -> Path:
    """ImageReward's own files, by its own names."""
    folder.mkdir(parents=True)
    torch.manual_seed(2)
    state: dict[str, torch.Tensor] = {}

    def linear(name: str, out: int, into: int) -> None:
        state[f"{name}.weight"] = torch.randn(out, into) * into**-0.5
        state[f"{name}.bias"] = torch.randn(out) * 0.1

    def norm(name: str, width: int = WIDTH) -> None:
        state[f"{name}.weight"] = 1 + 0.1 * torch.randn(width)
        state[f"{name}.bias"] = 0.1 * torch.randn(width)

    eyes = "blip.visual_encoder"
    state[f"{eyes}.cls_token"] = torch.randn(1, 1, WIDTH)
    state[f"{eyes}.pos_embed"] = 0.3 * torch.randn(1, 17, WIDTH)
    state[f"{eyes}.patch_embed.proj.weight"] = torch.randn(WIDTH, 3, 8, 8) * 0.1
    state[f"{eyes}.patch_embed.proj.bias"] = torch.randn(WIDTH)
    for layer in range(2):
        block = f"{eyes}.blocks.{layer}"
        norm(f"{block}.norm1")
        norm(f"{block}.norm2")
        linear(f"{block}.attn.qkv", 3 * WIDTH, WIDTH)
        linear(f"{block}.attn.proj", WIDTH, WIDTH)
        linear(f"{block}.mlp.fc1", 2 * WIDTH, WIDTH)
        linear(f"{block}.mlp.fc2", WIDTH, 2 * WIDTH)
    norm(f"{eyes}.norm")
    words = "blip.text_encoder"
    vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "cat", "dog", "on", "red"]
    (folder / "vocab.txt").write_text("\n".join(vocabulary) + "\n")
    embed = f"{words}.embeddings"
    state[f"{embed}.word_embeddings.weight"] = torch.randn(len(vocabulary) + 2, 48)
    state[f"{embed}.position_embeddings.weight"] = 0.3 * torch.randn(40, 48)
    state[f"{embed}.position_ids"] = torch.arange(40)[None]
    norm(f"{embed}.LayerNorm", 48)
    for layer in range(2):
        block = f"{words}.encoder.layer.{layer}"
        for kind, width in (("attention", 48), ("crossattention", WIDTH)):
            linear(f"{block}.{kind}.self.query", 48, 48)
            linear(f"{block}.{kind}.self.key", 48, width)
            linear(f"{block}.{kind}.self.value", 48, width)
            linear(f"{block}.{kind}.output.dense", 48, 48)
            norm(f"{block}.{kind}.output.LayerNorm", 48)
        linear(f"{block}.intermediate.dense", 96, 48)
        linear(f"{block}.output.dense", 48, 96)
        norm(f"{block}.output.LayerNorm", 48)
    sizes = (48, 32, 16, 8, 4, 1)
    for place, out, into in zip((0, 2, 4, 6, 7), sizes[1:], sizes):
        linear(f"mlp.layers.{place}", out, into)
    torch.save(state, folder / "ImageReward.pt")
    config = {
        "hidden_size": 48, "intermediate_size": 96, "num_attention_heads": 4,
        "num_hidden_layers": 2, "max_position_embeddings": 40, "layer_norm_eps": 1e-12,
        "hidden_act": "gelu", "vocab_size": len(vocabulary) + 2, "encoder_width": WIDTH,
    }  # fmt: skip
    (folder / "med_config.json").write_text(json.dumps(config))
    return folder


def bert(folder: Path) -> Path:
    """A BERT in transformers' layout, without a length in its tokeniser's file."""
    import transformers

    folder.mkdir(parents=True)
    words = "[PAD] [UNK] [CLS] [SEP] [MASK] the image contains a cat dog riding bike on red".split()
    (folder / "vocab.txt").write_text("\n".join(words) + "\n")
    transformers.BertTokenizer(str(folder / "vocab.txt")).save_pretrained(folder)
    torch.manual_seed(3)
    config = transformers.BertConfig(
        vocab_size=len(words), hidden_size=32, intermediate_size=32, num_hidden_layers=3,
        num_attention_heads=2, max_position_embeddings=64,
    )  # fmt: skip
    transformers.BertModel(config).save_pretrained(folder)
    return folder


def mask2former(folder: Path) -> Path:
    """A Mask2Former in transformers' layout that knows three things."""
    import transformers

    torch.manual_seed(4)
    backbone = transformers.SwinConfig(
        image_size=32, embed_dim=8, depths=[1, 1, 1, 1], num_heads=[1, 1, 1, 1], window_size=2,
        out_features=["stage1", "stage2", "stage3", "stage4"],
    )  # fmt: skip
    config = transformers.Mask2FormerConfig(
        backbone_config=backbone, feature_size=32, mask_feature_size=32, hidden_dim=32,
        encoder_feedforward_dim=16, encoder_layers=1, decoder_layers=2, num_attention_heads=2,
        dim_feedforward=16, num_queries=6,
        id2label={0: "cat", 1: "dog", 2: "mouse"}, label2id={"cat": 0, "dog": 1, "mouse": 2},
    )  # fmt: skip
    model = transformers.Mask2FormerForUniversalSegmentation(config)
    nn.init.normal_(model.class_predictor.weight, std=3.0)  # sure of itself, as a trained one is
    model.save_pretrained(folder)
    transformers.Mask2FormerImageProcessor(
        size={"shortest_edge": 64, "longest_edge": 128}, size_divisor=32, num_labels=3
    ).save_pretrained(folder)
    return folder


# --- ImageReward by its published definition, in plain torch ---


def image_reward_by_hand(state: dict, pixels: torch.Tensor, ids_: torch.Tensor, mask) -> float:
    """The reward of one picture [3, 32, 32], already in CLIP's colours, and one text [tokens]."""
    F = nn.functional

    def of(name):
        return {"weight": state[f"{name}.weight"], "bias": state[f"{name}.bias"]}

    def norm(x, name, eps):
        return F.layer_norm(x, x.shape[-1:], eps=eps, **of(name))

    def attend(q, k, v, heads, allowed=None):
        q, k, v = (t.unflatten(-1, (heads, -1)).transpose(0, 1) for t in (q, k, v))
        weights = q @ k.transpose(-1, -2) / q.shape[-1] ** 0.5
        if allowed is not None:
            weights = weights.masked_fill(~allowed, -torch.inf)
        return (weights.softmax(-1) @ v).transpose(0, 1).flatten(1)

    eyes = "blip.visual_encoder"
    patches = F.conv2d(pixels[None], stride=8, **of(f"{eyes}.patch_embed.proj")).flatten(2)[0].T
    x = torch.cat([state[f"{eyes}.cls_token"][0], patches]) + state[f"{eyes}.pos_embed"][0]
    for layer in range(2):
        block = f"{eyes}.blocks.{layer}"
        qkv = F.linear(norm(x, f"{block}.norm1", 1e-6), **of(f"{block}.attn.qkv")).chunk(3, -1)
        x = x + F.linear(attend(*qkv, WIDTH // 64), **of(f"{block}.attn.proj"))
        inner = F.linear(norm(x, f"{block}.norm2", 1e-6), **of(f"{block}.mlp.fc1"))
        x = x + F.linear(F.gelu(inner), **of(f"{block}.mlp.fc2"))
    seen = norm(x, f"{eyes}.norm", 1e-6)

    words = "blip.text_encoder"
    embed = f"{words}.embeddings"
    y = state[f"{embed}.word_embeddings.weight"][ids_]
    y = norm(
        y + state[f"{embed}.position_embeddings.weight"][: len(y)], f"{embed}.LayerNorm", 1e-12
    )
    for layer in range(2):
        block = f"{words}.encoder.layer.{layer}"
        for kind, source, allowed in (
            ("attention", None, mask.bool()[None, None]), ("crossattention", seen, None),
        ):  # fmt: skip
            part = f"{block}.{kind}"
            of_what = y if source is None else source
            q = F.linear(y, **of(f"{part}.self.query"))
            k = F.linear(of_what, **of(f"{part}.self.key"))
            v = F.linear(of_what, **of(f"{part}.self.value"))
            out = F.linear(attend(q, k, v, 4, allowed), **of(f"{part}.output.dense"))
            y = norm(y + out, f"{part}.output.LayerNorm", 1e-12)
        inner = F.gelu(F.linear(y, **of(f"{block}.intermediate.dense")))
        out = F.linear(inner, **of(f"{block}.output.dense"))
        y = norm(y + out, f"{block}.output.LayerNorm", 1e-12)
    reward = y[0]
    for place in (0, 2, 4, 6, 7):
        reward = F.linear(reward, **of(f"mlp.layers.{place}"))
    return (float(reward) - 0.16717362830052426) / 1.0333394966054072


# --- HPSv2, in open_clip's own layout ---

HPS_WIDTH, HPS_TEXT = 128, 64


def hps(folder: Path) -> Path:
    """HPSv2's checkpoint by open_clip's names, CLIP's vocabulary beside it; 32x32 pixels."""
    folder.mkdir(parents=True)
    (folder / "vocab.json").write_text(json.dumps(ids()), "utf-8")
    lines = ["#version: 0.2", *(" ".join(pair) for pair in merges())]
    (folder / "merges.txt").write_text("\n".join(lines) + "\n", "utf-8")
    torch.manual_seed(5)
    state: dict[str, torch.Tensor] = {}

    def norm(name: str, width: int) -> None:
        state[f"{name}.weight"] = 1 + 0.1 * torch.randn(width)
        state[f"{name}.bias"] = 0.1 * torch.randn(width)

    def linear(name: str, out: int, into: int, dot: str = ".") -> None:
        state[f"{name}{dot}weight"] = torch.randn(out, into) * into**-0.5
        state[f"{name}{dot}bias"] = torch.randn(out) * 0.1

    def tower(prefix: str, width: int) -> None:
        for layer in range(2):
            block = f"{prefix}transformer.resblocks.{layer}"
            norm(f"{block}.ln_1", width)
            norm(f"{block}.ln_2", width)
            linear(f"{block}.attn.in_proj", 3 * width, width, "_")
            linear(f"{block}.attn.out_proj", width, width)
            linear(f"{block}.mlp.c_fc", 2 * width, width)
            linear(f"{block}.mlp.c_proj", width, 2 * width)

    state["positional_embedding"] = 0.3 * torch.randn(77, HPS_TEXT)
    state["text_projection"] = torch.randn(HPS_TEXT, 16)
    state["logit_scale"] = torch.tensor(3.0)
    state["visual.class_embedding"] = torch.randn(HPS_WIDTH)
    state["visual.positional_embedding"] = 0.3 * torch.randn(17, HPS_WIDTH)
    state["visual.proj"] = torch.randn(HPS_WIDTH, 16)
    state["visual.conv1.weight"] = torch.randn(HPS_WIDTH, 3, 8, 8) * 0.1
    norm("visual.ln_pre", HPS_WIDTH)
    tower("visual.", HPS_WIDTH)
    norm("visual.ln_post", HPS_WIDTH)
    tower("", HPS_TEXT)
    state["token_embedding.weight"] = torch.randn(len(ids()), HPS_TEXT)
    norm("ln_final", HPS_TEXT)
    torch.save({"epoch": 1, "state_dict": state}, folder / "HPS_v2.1_compressed.pt")
    return folder


def hps_by_hand(state: dict, pixels: torch.Tensor, tokens: list[int]) -> float:
    """The cosine of a picture [3, 32, 32] in CLIP's colours and a text, as open_clip does it."""
    F = nn.functional

    def norm(x, name):
        return F.layer_norm(x, x.shape[-1:], state[f"{name}.weight"], state[f"{name}.bias"])

    def tower(x, prefix, causal):
        heads = x.shape[-1] // 64
        for layer in range(2):
            block = f"{prefix}transformer.resblocks.{layer}"
            qkv = F.linear(norm(x, f"{block}.ln_1"), state[f"{block}.attn.in_proj_weight"],
                           state[f"{block}.attn.in_proj_bias"]).chunk(3, -1)  # fmt: skip
            q, k, v = (each.unflatten(-1, (heads, -1)).transpose(0, 1) for each in qkv)
            mixed = F.scaled_dot_product_attention(q, k, v, is_causal=causal)
            mixed = mixed.transpose(0, 1).flatten(1)
            x = x + F.linear(mixed, state[f"{block}.attn.out_proj.weight"],
                             state[f"{block}.attn.out_proj.bias"])  # fmt: skip
            inner = F.linear(norm(x, f"{block}.ln_2"), state[f"{block}.mlp.c_fc.weight"],
                             state[f"{block}.mlp.c_fc.bias"])  # fmt: skip
            x = x + F.linear(F.gelu(inner), state[f"{block}.mlp.c_proj.weight"],
                             state[f"{block}.mlp.c_proj.bias"])  # fmt: skip
        return x

    patches = F.conv2d(pixels[None], state["visual.conv1.weight"], stride=8).flatten(2)[0].T
    x = torch.cat([state["visual.class_embedding"][None], patches])
    x = norm(x + state["visual.positional_embedding"], "visual.ln_pre")
    x = norm(tower(x, "visual.", False)[0], "visual.ln_post") @ state["visual.proj"]
    y = state["token_embedding.weight"][tokens] + state["positional_embedding"][: len(tokens)]
    y = norm(tower(y, "", True), "ln_final")[-1] @ state["text_projection"]
    return float(x @ y / x.norm() / y.norm())
