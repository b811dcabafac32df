"""Anima and Wan as Forge Neo carries them, see lookalikes.py. Their latents are frames."""

from __future__ import annotations

import math

import torch
from einops.layers.torch import Rearrange
from lookalikes import CONTEXT, sinusoids
from lookalikes_flux import EmbedND, rotated
from torch import Tensor, nn
from torch.nn import functional as F


def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    q, k, v = (part.transpose(1, 2) for part in (q, k, v))
    return F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)


def padded(x: Tensor) -> Tensor:
    return F.pad(x, (0, x.shape[-1] % 2, 0, x.shape[-2] % 2, 0, 0), mode="circular")


# --- Anima ---

WIDE, LORA = 64, 8


class VideoRopePosition3DEmb(nn.Module):
    """Matrices [tokens, d / 2, 2, 2] of pairs (i, i + d / 2)."""

    def forward(self, x: Tensor, device: torch.device) -> Tensor:
        _, frames, height, width, _ = x.shape
        d = WIDE // 2
        side = d // 6 * 2
        angles = []
        shapes = ((frames, d - 2 * side, 1.0), (height, side, 4.0), (width, side, 4.0))
        for axis, (size, part, ratio) in enumerate(shapes):
            theta = 10000.0 * ratio ** (part / (part - 2))
            places = (torch.arange(0, part, 2).float() / part).half()
            angle = torch.outer(torch.arange(size).float(), 1.0 / theta**places)
            angle = angle.view(*(size if axis == i else 1 for i in range(3)), -1)
            angles.append(angle.expand(frames, height, width, -1))
        angle = torch.cat(angles, -1).flatten(0, 2)
        parts = [angle.cos(), -angle.sin(), angle.sin(), angle.cos()]
        return torch.stack(parts, -1).unflatten(-1, (2, 2)).float()


class Timesteps(nn.Module):
    def forward(self, t: Tensor) -> Tensor:
        return sinusoids(t, WIDE)


class TimestepEmbedding(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear_1, self.activation = nn.Linear(WIDE, WIDE, bias=False), nn.SiLU()
        self.linear_2 = nn.Linear(WIDE, 3 * WIDE, bias=False)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return x, self.linear_2(self.activation(self.linear_1(x)))


class PatchEmbed(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        cut = Rearrange("b c t (h m) (w n) -> b t h w (c m n)", m=2, n=2)
        self.proj = nn.Sequential(cut, nn.Linear(68, WIDE, bias=False))

    def forward(self, x: Tensor) -> Tensor:
        return self.proj(x)


def small(count: int) -> nn.Sequential:
    layers = nn.Linear(WIDE, LORA, bias=False), nn.Linear(LORA, count * WIDE, bias=False)
    return nn.Sequential(nn.SiLU(), *layers)


def over(part: Tensor, x: Tensor) -> Tensor:
    """[rows, 1, C] or one a token, beside [rows, frames, height, width, C]."""
    return part.view(*x.shape[:-1], -1) if part.shape[1] > 1 else part[:, :, None, None]


class SelfCrossAttention(nn.Module):
    def __init__(self, context: int | None) -> None:
        super().__init__()
        self.n_heads, self.own = 2, context is None
        self.q_proj = nn.Linear(WIDE, WIDE, bias=False)
        self.q_norm = nn.RMSNorm(WIDE // 2, eps=1e-6)
        self.k_proj = nn.Linear(context or WIDE, WIDE, bias=False)
        self.k_norm = nn.RMSNorm(WIDE // 2, eps=1e-6)
        self.v_proj = nn.Linear(context or WIDE, WIDE, bias=False)
        self.v_norm = nn.Identity()
        self.output_proj, self.output_dropout = nn.Linear(WIDE, WIDE, bias=False), nn.Identity()

    def forward(self, x, context=None, rope_emb=None, transformer_options=None) -> Tensor:
        text = x if context is None else context
        q, k, v = self.q_proj(x), self.k_proj(text), self.v_proj(text)
        q, k, v = (part.unflatten(-1, (2, -1)) for part in (q, k, v))
        q, k, v = self.q_norm(q), self.k_norm(k), self.v_norm(v)
        if self.own:
            q, k = (_halves(_rotate(_pairs(part), rope_emb)) for part in (q, k))
        return self.output_dropout(self.output_proj(attend(q, k, v)))


def _pairs(x: Tensor) -> Tensor:
    return x.unflatten(-1, (2, -1)).transpose(-1, -2).flatten(-2)


def _halves(x: Tensor) -> Tensor:
    return x.unflatten(-1, (-1, 2)).transpose(-1, -2).flatten(-2)


def _rotate(x: Tensor, pe: Tensor) -> Tensor:
    return rotated(x, pe)


class GPT2FeedForward(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.activation = nn.GELU()
        self.layer1 = nn.Linear(WIDE, 4 * WIDE, bias=False)
        self.layer2 = nn.Linear(4 * WIDE, WIDE, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.layer2(self.activation(self.layer1(x)))


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        parts = SelfCrossAttention(None), SelfCrossAttention(CONTEXT), GPT2FeedForward()
        for name, module in zip(("self_attn", "cross_attn", "mlp"), parts):
            norm = nn.LayerNorm(WIDE, elementwise_affine=False, eps=1e-6)
            setattr(self, f"layer_norm_{name}", norm)
            setattr(self, name, module)
            setattr(self, f"adaln_modulation_{name}", small(3))

    def forward(
        self, x, told, context, rope_emb_L_1_1_D, adaln_lora_B_T_3D,  # noqa: N803 - the host's
        extra_per_block_pos_emb=None, transformer_options=None,
    ) -> Tensor:  # fmt: skip
        dtype, mods = told.dtype, {}
        for name in ("self_attn", "cross_attn", "mlp"):
            made = getattr(self, f"adaln_modulation_{name}")(told) + adaln_lora_B_T_3D
            mods[name] = [over(part, x) for part in made.chunk(3, -1)]
        more = {"rope_emb": rope_emb_L_1_1_D, "transformer_options": transformer_options}
        for name, (shift, scale, gate) in mods.items():
            inside = getattr(self, f"layer_norm_{name}")(x) * (1 + scale) + shift
            if name == "mlp":
                made = self.mlp(inside.to(dtype))
            else:
                text = context if name == "cross_attn" else None
                tokens = inside.to(dtype).flatten(1, 3)
                made = getattr(self, name)(tokens, text, **more).view_as(x)
            x = torch.addcmul(x, gate.to(x.dtype), made.to(x.dtype))
        return x


class AnimaFinalLayer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer_norm = nn.LayerNorm(WIDE, elementwise_affine=False, eps=1e-6)
        self.linear, self.adaln_modulation = nn.Linear(WIDE, 64, bias=False), small(2)

    def forward(self, x, told, adaln_lora_B_T_3D) -> Tensor:  # noqa: N803 - the host's
        made = self.adaln_modulation(told) + adaln_lora_B_T_3D[..., : 2 * WIDE]
        shift, scale = (over(part, x) for part in made.chunk(2, -1))
        return self.linear(self.layer_norm(x) * (1 + scale) + shift)


AnimaFinalLayer.__name__ = "FinalLayer"


class Anima(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.patch_spatial = 2
        self.pos_embedder = VideoRopePosition3DEmb()
        self.t_embedder = nn.Sequential(Timesteps(), TimestepEmbedding())
        self.x_embedder = PatchEmbed()
        self.blocks = nn.ModuleList(Block() for _ in range(2))
        self.final_layer = AnimaFinalLayer()
        self.t_embedding_norm = nn.RMSNorm(WIDE, eps=1e-6)

    def forward(self, x, timestep, context, text_t=None, **kwargs) -> Tensor:
        h, w = x.shape[-2:]
        x = padded(x)
        x = self.x_embedder(torch.cat([x, torch.zeros_like(x[:, :1])], 1))
        pe = self.pos_embedder(x, device=x.device)[None, :, None]
        t = timestep if timestep.ndim == 2 else timestep[:, None]
        told, shared = self.t_embedder[1](self.t_embedder[0](t).to(x.dtype))
        told = self.t_embedding_norm(told)
        dtype = x.dtype
        x = x.float() if dtype is torch.float16 else x
        for block in self.blocks:
            x = block(
                x, told, context, rope_emb_L_1_1_D=pe, adaln_lora_B_T_3D=shared,
                extra_per_block_pos_emb=None, transformer_options={},
            )  # fmt: skip
        x = self.final_layer(x.to(dtype), told, adaln_lora_B_T_3D=shared)
        rows, _, height, width, _ = x.shape
        x = x.view(rows, 1, height, width, 2, 2, 16).permute(0, 6, 1, 2, 4, 3, 5)
        return x.reshape(rows, 16, 1, 2 * height, 2 * width)[..., :h, :w]


# --- Wan ---

WIDTH, HEADS = 32, 2


class WanSelfAttention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.num_heads = HEADS
        for name in "qkvo":
            setattr(self, name, nn.Linear(WIDTH, WIDTH))
        self.norm_q, self.norm_k = nn.RMSNorm(WIDTH, eps=1e-6), nn.RMSNorm(WIDTH, eps=1e-6)

    def forward(self, x: Tensor, pe: Tensor, transformer_options: dict) -> Tensor:
        q, k = self.norm_q(self.q(x)), self.norm_k(self.k(x))
        q, k, v = (part.unflatten(-1, (HEADS, -1)) for part in (q, k, self.v(x)))
        return self.o(attend(rotated(q, pe), rotated(k, pe), v))


class WanT2VCrossAttention(WanSelfAttention):
    def forward(self, x: Tensor, context: Tensor, context_img_len: int | None = None) -> Tensor:
        q, k, v = self.norm_q(self.q(x)), self.norm_k(self.k(context)), self.v(context)
        return self.o(attend(*(part.unflatten(-1, (HEADS, -1)) for part in (q, k, v))))


class WanAttentionBlock(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(WIDTH, 1e-6, elementwise_affine=False)
        self.self_attn = WanSelfAttention()
        self.norm3 = nn.LayerNorm(WIDTH, 1e-6)
        self.cross_attn = WanT2VCrossAttention()
        self.norm2 = nn.LayerNorm(WIDTH, 1e-6, elementwise_affine=False)
        gelu = nn.GELU(approximate="tanh")
        self.ffn = nn.Sequential(nn.Linear(WIDTH, 64), gelu, nn.Linear(64, WIDTH))
        self.modulation = nn.Parameter(torch.zeros(1, 6, WIDTH))

    def forward(self, x, e, freqs, context, context_img_len=None, transformer_options=None):
        shift, scale, gate, shift2, scale2, gate2 = (self.modulation + e).unbind(2)
        inside = self.norm1(x) * (1 + scale) + shift
        x = x + self.self_attn(inside, freqs, transformer_options=transformer_options) * gate
        x = x + self.cross_attn(self.norm3(x), context, context_img_len=context_img_len)
        return x + self.ffn(self.norm2(x) * (1 + scale2) + shift2) * gate2


class Head(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(WIDTH, 1e-6, elementwise_affine=False)
        self.head = nn.Linear(WIDTH, 64)
        self.modulation = nn.Parameter(torch.zeros(1, 2, WIDTH))

    def forward(self, x: Tensor, e: Tensor) -> Tensor:
        shift, scale = (self.modulation + e[:, :, None]).unbind(2)
        return self.head(self.norm(x) * (1 + scale) + shift)


class WanModel(nn.Module):
    """Takes a timestep a row or one a token by itself, as Wan 2.2 asks for."""

    def __init__(self) -> None:
        super().__init__()
        self.patch_size = (1, 2, 2)
        self.patch_embedding = nn.Conv3d(16, WIDTH, self.patch_size, self.patch_size)
        gelu = nn.GELU(approximate="tanh")
        self.text_embedding = nn.Sequential(
            nn.Linear(CONTEXT, WIDTH), gelu, nn.Linear(WIDTH, WIDTH)
        )
        self.time_embedding = nn.Sequential(
            nn.Linear(WIDTH, WIDTH), nn.SiLU(), nn.Linear(WIDTH, WIDTH)
        )
        self.time_projection = nn.Sequential(nn.SiLU(), nn.Linear(WIDTH, 6 * WIDTH))
        self.blocks = nn.ModuleList(WanAttentionBlock() for _ in range(2))
        self.head, self.rope_embedder = Head(), EmbedND((8, 4, 4))

    def forward(self, x, timestep, context, text_t=None, **kwargs) -> Tensor:
        h, w = x.shape[-2:]
        x = padded(x)
        rows, height, width = len(x), x.shape[-2] // 2, x.shape[-1] // 2
        ids = torch.zeros(height, width, 3)
        ids[..., 1], ids[..., 2] = torch.arange(height)[:, None], torch.arange(width)[None]
        pe = self.rope_embedder(ids.view(1, -1, 3).expand(rows, -1, -1).to(x.dtype))
        x = self.patch_embedding(x).flatten(2).transpose(1, 2)
        places = torch.arange(WIDTH // 2).float() / (WIDTH // 2)
        angles = timestep.flatten().float()[:, None] * math.e ** (-math.log(10000) * places)
        e = self.time_embedding(torch.cat([angles.cos(), angles.sin()], 1).to(x.dtype))
        e = e.view(rows, -1, WIDTH)
        e0 = self.time_projection(e).unflatten(2, (6, WIDTH))
        pe, text = pe.transpose(1, 2), self.text_embedding(context)
        for block in self.blocks:
            x = block(
                x, e=e0, freqs=pe, context=text, context_img_len=None, transformer_options={}
            )  # fmt: skip
        x = self.head(x, e).view(rows, height, width, 2, 2, 16).permute(0, 5, 1, 3, 2, 4)
        return x.reshape(rows, 16, 1, 2 * height, 2 * width)[..., :h, :w]
