"""Transformers as WebUIs carry them: modules of the same names, classes, shapes and call order.

Written anew to the recorded contracts in tests/data/contract-*.json (see contract.py), which a
run on a host's own module writes. A vector of time may be one a row [rows, E], as in the hosts, or
one a token [rows, tokens, E]: that is the brute force.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

CONTEXT, POOLED = 24, 20


def sinusoids(t: Tensor, width: int) -> Tensor:
    half = width // 2
    frequencies = torch.exp(-math.log(10000) * torch.arange(half, dtype=torch.float32) / half)
    angles = t[..., None].float() * frequencies
    return torch.cat([angles.cos(), angles.sin()], -1)


def by_token(vector: Tensor) -> Tensor:
    return vector if vector.ndim == 3 else vector[:, None]


def scaled(x: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    return x * (1 + by_token(scale)) + by_token(shift)


class Told(nn.Module):
    """Calls one module for every token's own input, where there is one a token."""

    def each(self, module, told: Tensor, **more) -> Tensor:
        if told.ndim == 1:
            return module(told, **more)
        return torch.stack([module(told[:, i], **more) for i in range(told.shape[1])], 1)


# --- Stable Diffusion 3 ---


class PatchEmbed(nn.Module):
    def __init__(self, channels: int, width: int) -> None:
        super().__init__()
        self.patch_size = (2, 2)
        self.proj = nn.Conv2d(channels, width, 2, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.proj(x).flatten(2).transpose(1, 2)


class TimestepEmbedder(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.mlp = nn.Sequential(nn.Linear(256, width), nn.SiLU(), nn.Linear(width, width))

    def forward(self, t: Tensor, dtype: torch.dtype) -> Tensor:
        return self.mlp(sinusoids(t, 256).to(dtype))


class VectorEmbedder(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.mlp = nn.Sequential(nn.Linear(POOLED, width), nn.SiLU(), nn.Linear(width, width))

    def forward(self, y: Tensor) -> Tensor:
        return self.mlp(y)


class RMSNorm(nn.Module):
    def __init__(self, width: int, name: str = "weight") -> None:
        super().__init__()
        self.of = name
        self.weight = None  # Forge's Flux has it beside its ``scale``, too
        setattr(self, name, nn.Parameter(torch.ones(width)))

    def forward(self, x: Tensor) -> Tensor:
        root = torch.rsqrt(x.float().pow(2).mean(-1, keepdim=True) + 1e-6).to(x.dtype)
        return x * root * getattr(self, self.of)


class QkvLinear(nn.Linear):
    pass


class SelfAttention(nn.Module):
    def __init__(self, width: int, heads: int, last: bool, qk_norm: bool, qkv=nn.Linear) -> None:
        super().__init__()
        self.num_heads, self.head_dim = heads, width // heads
        self.qkv = qkv(width, 3 * width)
        if not last:
            self.proj = nn.Linear(width, width)
        self.ln_q = RMSNorm(self.head_dim) if qk_norm else nn.Identity()
        self.ln_k = RMSNorm(self.head_dim) if qk_norm else nn.Identity()

    def before(self, x: Tensor) -> list[Tensor]:
        q, k, v = self.qkv(x).unflatten(-1, (3, self.num_heads, self.head_dim)).unbind(2)
        return [self.ln_q(q), self.ln_k(k), v]


def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    q, k, v = (x.transpose(1, 2) for x in (q, k, v))
    return F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)


class Mlp(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.fc1, self.act = nn.Linear(width, 4 * width), nn.GELU(approximate="tanh")
        self.fc2 = nn.Linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(self.act(self.fc1(x)))


class DismantledBlock(nn.Module):
    def __init__(self, width, heads, last, qk_norm, dual=False, qkv=nn.Linear) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width, elementwise_affine=False, eps=1e-6)
        self.attn = SelfAttention(width, heads, last, qk_norm, qkv)
        self.dual, self.last = dual, last
        if dual:
            self.attn2 = SelfAttention(width, heads, False, qk_norm, qkv)
        if not last:
            self.norm2 = nn.LayerNorm(width, elementwise_affine=False, eps=1e-6)
            self.mlp = Mlp(width)
        self.chunks = 2 if last else 9 if dual else 6
        projection = nn.Linear(width, self.chunks * width)
        self.adaLN_modulation = nn.Sequential(nn.SiLU(), projection)

    def before(self, x: Tensor, c: Tensor) -> list[Tensor]:
        self.mods = self.adaLN_modulation(c).chunk(self.chunks, -1)
        normed = self.norm1(x)
        qkv = self.attn.before(scaled(normed, self.mods[0], self.mods[1]))
        if self.dual:
            self.own = self.attn2.before(scaled(normed, self.mods[6], self.mods[7]))
        return qkv

    def after(self, attention: Tensor, x: Tensor) -> Tensor:
        mods = [by_token(mod) for mod in self.mods]
        x = x + mods[2] * self.attn.proj(attention)
        if self.dual:
            x = x + mods[8] * self.attn2.proj(attend(*self.own))
        return x + mods[5] * self.mlp(scaled(self.norm2(x), self.mods[3], self.mods[4]))


class JointBlock(nn.Module):
    def __init__(self, width, heads, last, qk_norm, dual, qkv) -> None:
        super().__init__()
        self.context_block = DismantledBlock(width, heads, last, qk_norm, qkv=qkv)
        self.x_block = DismantledBlock(width, heads, False, qk_norm, dual, qkv)

    def forward(self, context: Tensor, x: Tensor, c: Tensor, text_c: Tensor | None = None):
        parts = self.context_block.before(context, c if text_c is None else text_c)
        own = self.x_block.before(x, c)
        seen = attend(*(torch.cat([text, image], 1) for text, image in zip(parts, own)))
        text, image = seen[:, : context.shape[1]], seen[:, context.shape[1] :]
        context = None if self.context_block.last else self.context_block.after(text, context)
        return context, self.x_block.after(image, x)


class FinalLayer(nn.Module):
    def __init__(self, width: int, out: int) -> None:
        super().__init__()
        self.norm_final = nn.LayerNorm(width, elementwise_affine=False, eps=1e-6)
        self.linear = nn.Linear(width, out)
        self.adaLN_modulation = nn.Sequential(nn.SiLU(), nn.Linear(width, 2 * width))

    def forward(self, x: Tensor, c: Tensor) -> Tensor:
        shift, scale = self.adaLN_modulation(c).chunk(2, -1)
        return self.linear(scaled(self.norm_final(x), shift, scale))


class MMDiT(Told):
    """A1111's: depth 2, no norms of q and k; MMDiTX is Forge's."""

    def __init__(self, depth=2, qk_norm=False, dual=(), registers=0, qkv=QkvLinear) -> None:
        super().__init__()
        width = 64 * depth
        self.patch_size, self.register_length, self.side = 2, registers, 8
        self.x_embedder = PatchEmbed(16, width)
        self.t_embedder = TimestepEmbedder(width)
        self.y_embedder = VectorEmbedder(width)
        self.context_embedder = nn.Linear(CONTEXT, width)
        if registers:
            self.register = nn.Parameter(torch.zeros(1, registers, width))
        self.register_buffer("pos_embed", torch.zeros(1, self.side**2, width))
        self.joint_blocks = nn.ModuleList(
            JointBlock(width, depth, i == depth - 1, qk_norm, i in dual, qkv) for i in range(depth)
        )
        self.final_layer = FinalLayer(width, 64)

    def forward(self, x, t, y=None, context=None, text_t=None, **kwargs) -> Tensor:
        height, width = x.shape[-2] // 2, x.shape[-1] // 2
        top, left = (self.side - height) // 2, (self.side - width) // 2
        place = self.pos_embed.view(self.side, self.side, -1)
        place = place[top : top + height, left : left + width].flatten(0, 1)
        x = self.x_embedder(x) + place.to(x)
        c = self.each(self.t_embedder, t, dtype=x.dtype)
        y = self.y_embedder(y)
        text_c = None if text_t is None else self.t_embedder(text_t, x.dtype) + y
        c = c + (y if c.ndim == 2 else y[:, None])
        context = self.context_embedder(context)
        if self.register_length:
            context = torch.cat([self.register.expand(len(x), -1, -1), context], 1)
        for block in self.joint_blocks:
            more = {} if text_c is None else {"text_c": text_c}
            context, x = block(context, x, c=c, **more)
        x = self.final_layer(x, c).view(len(x), height, width, 2, 2, 16)
        return x.permute(0, 5, 1, 3, 2, 4).reshape(len(x), 16, 2 * height, 2 * width)


class MMDiTX(MMDiT):
    def __init__(self, depth=2, **changes) -> None:
        super().__init__(depth, qkv=nn.Linear, **changes)
