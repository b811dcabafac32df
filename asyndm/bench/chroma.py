"""A network in Chroma's shape as WebUIs have it, for counting what a call of it costs.

Random numbers go through it: it makes no picture. Two streams of 19 double blocks, 38 single
blocks over both, and one network that gives all their vectors of time at once (Chroma 1: 5 layers,
5120 wide; 8.9 billion parameters in all).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from asyndm.network.ldm_unet import timestep_embedding

TOLD = 16  # columns for the timestep, as many for the guidance, then 32 for the vector's number


class Chroma(nn.Module):
    """The whole network.

    Args:
        doubles, singles: blocks.
        width: of the tokens.
        heads: of their attention.
        inside: width of the network that gives the vectors.
        text: width of the text's tokens.
    """

    def __init__(
        self,
        doubles: int = 19,
        singles: int = 38,
        width: int = 3072,
        heads: int = 24,
        inside: int = 5120,
        text: int = 4096,
    ) -> None:
        super().__init__()
        self.img_in, self.txt_in = nn.Linear(64, width), nn.Linear(text, width)
        self.distilled_guidance_layer = _Vectors(inside, width)
        self.pe_embedder = _Places(width // heads)
        self.double_blocks = nn.ModuleList(_Double(width, heads) for _ in range(doubles))
        self.single_blocks = nn.ModuleList(_Single(width, heads) for _ in range(singles))
        self.final_layer = nn.Module()
        self.final_layer.linear = nn.Linear(width, 64)
        self.count = 3 * singles + 12 * doubles + 2

    def forward(self, x: Tensor, timestep: Tensor, context: Tensor) -> Tensor:
        """Latents [B, 16, H, W], timesteps [B], text [B, L, C] -> the output's tokens."""
        rows = len(x)
        img = self.img_in(F.pixel_unshuffle(x, 2).flatten(2).transpose(1, 2))
        txt, words = self.txt_in(context), context.shape[1]
        told = timestep_embedding(1000 * timestep, TOLD)[:, None].expand(-1, self.count, -1)
        number = timestep_embedding(torch.arange(self.count, device=x.device), 2 * TOLD)
        number = number[None].expand(rows, -1, -1)
        given = torch.cat([told, torch.zeros_like(told), number], -1).to(x.dtype)
        vectors = self.distilled_guidance_layer(given).split(1, dim=1)
        turn = self.pe_embedder(words + img.shape[1], x)
        singles, doubles = len(self.single_blocks), len(self.double_blocks)
        for i, block in enumerate(self.double_blocks):
            first = 3 * singles + 6 * i
            img, txt = block(img, txt, vectors[first:], vectors[first + 6 * doubles :], turn)
        x = torch.cat([txt, img], 1)
        for i, block in enumerate(self.single_blocks):
            x = block(x, vectors[3 * i :], turn)
        return self.final_layer.linear(_scaled(x[:, words:], *vectors[-2:]))


class _Vectors(nn.Module):
    def __init__(self, inside: int, width: int, layers: int = 5) -> None:
        super().__init__()
        self.in_proj, self.out_proj = nn.Linear(4 * TOLD, inside), nn.Linear(inside, width)
        self.layers = nn.ModuleList(
            nn.Sequential(nn.Linear(inside, inside), nn.SiLU(), nn.Linear(inside, inside))
            for _ in range(layers)
        )

    def forward(self, x: Tensor) -> Tensor:
        x = self.in_proj(x)
        for layer in self.layers:
            x = x + layer(F.rms_norm(x, x.shape[-1:]))
        return self.out_proj(x)


class _Places(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.width = width

    def forward(self, tokens: int, like: Tensor) -> Tensor:
        return torch.ones(1, 1, tokens, self.width // 2, 2, 2, device=like.device)


class _Norm(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.query_norm, self.key_norm = nn.Identity(), nn.Identity()  # as the hosts name them

    def forward(self, q: Tensor, k: Tensor) -> tuple[Tensor, Tensor]:
        return F.rms_norm(q, q.shape[-1:]), F.rms_norm(k, k.shape[-1:])


class _Attention(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.qkv, self.norm, self.proj = (
            nn.Linear(width, 3 * width),
            _Norm(),
            nn.Linear(width, width),
        )


class _Double(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.num_heads = heads
        for kind in ("img", "txt"):
            setattr(self, f"{kind}_attn", _Attention(width))
            setattr(self, f"{kind}_mlp", _feed_forward(width))

    def forward(self, img: Tensor, txt: Tensor, mods: tuple, text_mods: tuple, turn: Tensor):
        kinds = (("txt", txt, text_mods), ("img", img, mods))
        parts = []
        for kind, x, (shift, scale, *_) in kinds:
            attention = getattr(self, f"{kind}_attn")
            parts.append(_heads(attention.qkv(_scaled(x, shift, scale)), self.num_heads))
            parts[-1][:2] = attention.norm(*parts[-1][:2])
        seen = _attend([torch.cat(pair, 2) for pair in zip(*parts)], turn)
        made = []
        for (kind, x, (_, _, gate, shift, scale, gate2, *_)), own in zip(
            kinds, seen.split([txt.shape[1], img.shape[1]], 1)
        ):
            x = x + gate * getattr(self, f"{kind}_attn").proj(own)
            made.append(x + gate2 * getattr(self, f"{kind}_mlp")(_scaled(x, shift, scale)))
        return made[1], made[0]


class _Single(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.num_heads, self.norm = heads, _Norm()
        self.linear1, self.linear2 = nn.Linear(width, 7 * width), nn.Linear(5 * width, width)

    def forward(self, x: Tensor, mods: tuple, turn: Tensor) -> Tensor:
        shift, scale, gate = mods[:3]
        width = x.shape[-1]
        qkv, mlp = self.linear1(_scaled(x, shift, scale)).split([3 * width, 4 * width], -1)
        q, k, v = _heads(qkv, self.num_heads)
        seen = _attend([*self.norm(q, k), v], turn)
        return x + gate * self.linear2(torch.cat([seen, F.gelu(mlp)], -1))


def _feed_forward(width: int) -> nn.Module:
    return nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))


def _scaled(x: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    return F.layer_norm(x, x.shape[-1:]) * (1 + scale) + shift


def _heads(qkv: Tensor, heads: int) -> list[Tensor]:
    return list(qkv.unflatten(-1, (3, heads, -1)).permute(2, 0, 3, 1, 4))


def _attend(qkv: list[Tensor], turn: Tensor) -> Tensor:
    q, k = ((turn * x.unflatten(-1, (-1, 1, 2))).sum(-1).flatten(-2) for x in qkv[:2])
    return F.scaled_dot_product_attention(q, k, qkv[2]).transpose(1, 2).flatten(2)
