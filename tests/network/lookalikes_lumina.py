"""Lumina 2 and Z-Image as Forge Neo carries them, see lookalikes.py."""

from __future__ import annotations

import torch
from lookalikes import CONTEXT, TimestepEmbedder, Told, by_token
from lookalikes_flux import EmbedND, rotated
from torch import Tensor, nn
from torch.nn import functional as F


def scaled_only(x: Tensor, scale: Tensor) -> Tensor:
    return x * (1 + by_token(scale))


def gated(gate: Tensor, x: Tensor) -> Tensor:
    return by_token(gate).tanh() * x


class JointAttention(nn.Module):
    def __init__(self, width: int, heads: int, kv_heads: int) -> None:
        super().__init__()
        self.n_local_heads, self.n_local_kv_heads, d = heads, kv_heads, width // heads
        self.qkv = nn.Linear(width, (heads + 2 * kv_heads) * d, bias=False)
        self.out = nn.Linear(width, width, bias=False)
        self.q_norm, self.k_norm = nn.RMSNorm(d), nn.RMSNorm(d)

    def forward(self, x: Tensor, mask, pe: Tensor, transformer_options: dict) -> Tensor:
        heads, kv_heads = self.n_local_heads, self.n_local_kv_heads
        parts = self.qkv(x).unflatten(-1, (heads + 2 * kv_heads, -1))
        q, k, v = parts.split([heads, kv_heads, kv_heads], dim=2)
        q, k = rotated(self.q_norm(q), pe), rotated(self.k_norm(k), pe)
        k, v = (part.repeat_interleave(heads // part.shape[2], 2) for part in (k, v))
        q, k, v = (part.transpose(1, 2) for part in (q, k, v))
        return self.out(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))


class FeedForward(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.w1 = nn.Linear(width, 4 * width, bias=False)
        self.w2 = nn.Linear(4 * width, width, bias=False)
        self.w3 = nn.Linear(width, 4 * width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.w2(F.silu(self.w1(x)) * self.w3(x))


class JointTransformerBlock(nn.Module):
    def __init__(self, shape: tuple[int, int, int], told: bool, z: bool) -> None:
        super().__init__()
        width = shape[0]
        self.attention, self.feed_forward = JointAttention(*shape), FeedForward(width)
        for name in ("attention_norm1", "ffn_norm1", "attention_norm2", "ffn_norm2"):
            setattr(self, name, nn.RMSNorm(width, eps=1e-5))
        if told:
            projection = nn.Linear(width, 4 * width)
            self.adaLN_modulation = nn.Sequential(*([] if z else [nn.SiLU()]), projection)

    def forward(self, x, mask, pe, c=None, transformer_options=None) -> Tensor:
        zero = torch.zeros(1, 1, 1)
        mods = (zero, zero + 20, zero, zero + 20)
        if c is not None:
            mods = self.adaLN_modulation(c).chunk(4, -1)
        more = {"transformer_options": transformer_options}
        normed = scaled_only(self.attention_norm1(x), mods[0].to(x))
        x = x + gated(mods[1].to(x), self.attention_norm2(self.attention(normed, mask, pe, **more)))
        normed = scaled_only(self.ffn_norm1(x), mods[2].to(x))
        return x + gated(mods[3].to(x), self.ffn_norm2(self.feed_forward(normed)))


class ScaleOnlyLayer(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm_final = nn.LayerNorm(width, elementwise_affine=False, eps=1e-6)
        self.linear = nn.Linear(width, 64)
        self.adaLN_modulation = nn.Sequential(nn.SiLU(), nn.Linear(width, width))

    def forward(self, x: Tensor, c: Tensor) -> Tensor:
        scale = self.adaLN_modulation(c)
        return self.linear(scaled_only(self.norm_final(x), scale))


ScaleOnlyLayer.__name__ = "FinalLayer"


def filled(x: Tensor, multiple: int, token: Tensor) -> Tensor:
    return torch.cat([x, token.expand(len(x), -x.shape[1] % multiple, -1)], 1)


class NextDiT(Told):
    """Lumina 2 with shared keys; ``z`` = Z-Image, without, and filled up to multiples of 32."""

    def __init__(self, z: bool = False) -> None:
        super().__init__()
        width, heads = (256, 16) if z else (32, 2)
        shape = (width, heads, heads if z else 1)
        self.patch_size, self.time_scale = 2, 1000.0 if z else 1.0
        self.pad_tokens_multiple, self.clip_text_pooled_proj = 32 if z else None, None
        self.x_embedder = nn.Linear(64, width)
        self.noise_refiner = nn.ModuleList([JointTransformerBlock(shape, True, z)])
        self.context_refiner = nn.ModuleList([JointTransformerBlock(shape, False, z)])
        self.t_embedder = TimestepEmbedder(width)
        self.cap_embedder = nn.Sequential(nn.RMSNorm(CONTEXT, eps=1e-5), nn.Linear(CONTEXT, width))
        blocks = [JointTransformerBlock(shape, True, z) for _ in range(2)]
        self.layers, self.final_layer = nn.ModuleList(blocks), ScaleOnlyLayer(width)
        if z:
            self.x_pad_token = nn.Parameter(torch.zeros(1, width))
            self.cap_pad_token = nn.Parameter(torch.zeros(1, width))
        self.rope_embedder = EmbedND((4, 6, 6), 256 if z else 10000)

    def forward(self, x, timestep, context, text_t=None, **kwargs) -> Tensor:
        rows, _, h, w = x.shape
        x = F.pad(x, (0, w % 2, 0, h % 2), mode="circular")
        height, width = x.shape[-2] // 2, x.shape[-1] // 2
        x = x.view(rows, 16, height, 2, width, 2).permute(0, 2, 4, 3, 5, 1).reshape(rows, -1, 64)

        def embed(t: Tensor) -> Tensor:
            return self.t_embedder((1 - t) * self.time_scale, dtype=x.dtype)

        image = full = self.each(embed, timestep)
        text = self.cap_embedder(context)
        multiple = self.pad_tokens_multiple or 1
        if multiple > 1:
            text = filled(text, multiple, self.cap_pad_token)
        x, cells = self.x_embedder(x), height * width
        if multiple > 1:
            x = filled(x, multiple, self.x_pad_token)
        behind = x.shape[1] - cells
        if image.ndim == 3:
            own = embed(text_t)[:, None]
            image = torch.cat([image, own.expand(-1, behind, -1)], 1)
            full = torch.cat([own.expand(-1, text.shape[1], -1), image], 1)
        ids = torch.zeros(text.shape[1] + x.shape[1], 3)
        ids[: text.shape[1], 0] = torch.arange(text.shape[1]) + 1
        place = ids[text.shape[1] : text.shape[1] + cells].view(height, width, 3)
        place[..., 0] = text.shape[1] + 1
        place[..., 1] = torch.arange(height)[:, None]
        place[..., 2] = torch.arange(width)[None]
        pe = self.rope_embedder(ids.expand(rows, -1, -1)).transpose(1, 2).to(x.dtype)
        more = {"transformer_options": {}}
        for block in self.context_refiner:
            text = block(text, None, pe[:, : text.shape[1]], **more)
        for block in self.noise_refiner:
            x = block(x, None, pe[:, text.shape[1] :], image, **more)
        x = torch.cat([text, x], 1)
        for block in self.layers:
            x = block(x, None, pe, full, **more)
        x = self.final_layer(x, full)[:, text.shape[1] : text.shape[1] + cells]
        x = x.view(rows, height, width, 2, 2, 16).permute(0, 5, 1, 3, 2, 4)
        return -x.reshape(rows, 16, 2 * height, 2 * width)[:, :, :h, :w]
