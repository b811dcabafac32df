"""Krea 2 and Ernie-Image as Forge Neo carries them, see lookalikes.py."""

from __future__ import annotations

import torch
from lookalikes import CONTEXT, Told, sinusoids
from lookalikes_flux import EmbedND, attend_rotated
from lookalikes_video import attend, padded
from torch import Tensor, nn
from torch.nn import functional as F

WIDTH, HEADS = 32, 2


# --- Krea 2 ---


class ShiftedNorm(nn.Module):
    """Its weights are added to 1."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.zeros(width))

    def forward(self, x: Tensor) -> Tensor:
        return F.rms_norm(x.float(), x.shape[-1:], self.scale.float() + 1, 1e-5).to(x.dtype)


class KreaQKNorm(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.qnorm, self.knorm = ShiftedNorm(width), ShiftedNorm(width)

    def forward(self, q: Tensor, k: Tensor) -> tuple[Tensor, Tensor]:
        return self.qnorm(q), self.knorm(k)


class SwiGLU(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.gate = nn.Linear(width, 128, bias=False)
        self.up = nn.Linear(width, 128, bias=False)
        self.down = nn.Linear(128, width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.down(F.silu(self.gate(x)) * self.up(x))


class GatedAttention(nn.Module):
    def __init__(self, width: int, kvheads: int) -> None:
        super().__init__()
        self.heads, self.kvheads, d = HEADS, kvheads, width // HEADS
        self.wq = nn.Linear(width, width, bias=False)
        self.wk = nn.Linear(width, d * kvheads, bias=False)
        self.wv = nn.Linear(width, d * kvheads, bias=False)
        self.gate = nn.Linear(width, width, bias=False)
        self.qknorm = KreaQKNorm(d)
        self.wo = nn.Linear(width, width, bias=False)

    def forward(self, x, pe=None, mask=None, transformer_options=None) -> Tensor:
        q, k, v, gate = self.wq(x), self.wk(x), self.wv(x), self.gate(x)
        q = q.unflatten(-1, (self.heads, -1)).transpose(1, 2)
        k, v = (part.unflatten(-1, (self.kvheads, -1)).transpose(1, 2) for part in (k, v))
        q, k = self.qknorm(q, k)
        k, v = (part.repeat_interleave(self.heads // self.kvheads, 1) for part in (k, v))
        if pe is None:
            seen = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
        else:
            seen = attend_rotated(q, k, v, pe)
        return self.wo(seen * gate.sigmoid())


class TextFusionBlock(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.prenorm, self.postnorm = ShiftedNorm(width), ShiftedNorm(width)
        self.attn, self.mlp = GatedAttention(width, HEADS), SwiGLU(width)

    def forward(self, x, mask=None, transformer_options=None) -> Tensor:
        more = {"mask": mask, "transformer_options": transformer_options}
        x = x + self.attn(self.prenorm(x), **more)
        return x + self.mlp(self.postnorm(x))


class TextFusionTransformer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layerwise_blocks = nn.ModuleList(TextFusionBlock(8) for _ in range(2))
        self.projector = nn.Linear(3, 1, bias=False)
        self.refiner_blocks = nn.ModuleList(TextFusionBlock(8) for _ in range(2))

    def forward(self, x, mask=None, transformer_options=None) -> Tensor:
        rows, more = len(x), {"mask": mask, "transformer_options": transformer_options}
        x = x.flatten(0, 1)
        for block in self.layerwise_blocks:
            x = block(x, **more)
        x = self.projector(x.unflatten(0, (rows, -1)).transpose(2, 3))[..., 0]
        for block in self.refiner_blocks:
            x = block(x, **more)
        return x


class DoubleSharedModulation(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.lin = nn.Parameter(torch.zeros(6 * WIDTH))

    def forward(self, vec: Tensor) -> tuple[Tensor, ...]:
        return (vec + self.lin).chunk(6, -1)


class SimpleModulation(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.lin = nn.Parameter(torch.zeros(2, WIDTH))

    def forward(self, vec: Tensor) -> tuple[Tensor, Tensor]:
        return vec + self.lin[0], vec + self.lin[1]


class KreaBlock(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.mod = DoubleSharedModulation()
        self.prenorm, self.postnorm = ShiftedNorm(WIDTH), ShiftedNorm(WIDTH)
        self.attn, self.mlp = GatedAttention(WIDTH, 1), SwiGLU(WIDTH)

    def forward(self, x, vec, pe, mask=None, transformer_options=None) -> Tensor:
        scale, shift, gate, scale2, shift2, gate2 = self.mod(vec)
        more = {"transformer_options": transformer_options}
        x = x + gate * self.attn((1 + scale) * self.prenorm(x) + shift, pe, mask, **more)
        return x + gate2 * self.mlp((1 + scale2) * self.postnorm(x) + shift2)


class KreaLastLayer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm, self.linear = ShiftedNorm(WIDTH), nn.Linear(WIDTH, 64)
        self.modulation = SimpleModulation()

    def forward(self, x: Tensor, vec: Tensor) -> Tensor:
        scale, shift = self.modulation(vec)
        return self.linear((1 + scale) * self.norm(x) + shift)


class Krea(Told):
    def __init__(self) -> None:
        super().__init__()
        self.patch, self.tdim = 2, 32
        self.pe_embedder = EmbedND((4, 6, 6), 1000)
        self.first = nn.Linear(64, WIDTH)
        self.blocks = nn.ModuleList(KreaBlock() for _ in range(2))
        gelu = {"approximate": "tanh"}
        self.tmlp = nn.Sequential(
            nn.Linear(32, WIDTH), nn.GELU(**gelu), nn.Linear(WIDTH, WIDTH)
        )  # fmt: skip
        self.txtfusion = TextFusionTransformer()
        self.txtmlp = nn.Sequential(
            ShiftedNorm(8), nn.Linear(8, WIDTH), nn.GELU(**gelu), nn.Linear(WIDTH, WIDTH)
        )
        self.last = KreaLastLayer()
        self.tproj = nn.Sequential(nn.GELU(**gelu), nn.Linear(WIDTH, 6 * WIDTH))

    def forward(self, x, timestep, context, text_t=None, **kwargs) -> Tensor:
        h, w = x.shape[-2:]
        x = padded(x)[:, :, 0]
        rows, height, width = len(x), x.shape[-2] // 2, x.shape[-1] // 2
        x = x.view(rows, 16, height, 2, width, 2).permute(0, 2, 4, 1, 3, 5).reshape(rows, -1, 64)
        x, words = self.first(x), context.shape[1]
        t = timestep if timestep.ndim == 2 else timestep[:, None]
        if text_t is not None:
            t = torch.cat([text_t[:, None].expand(-1, words), t], 1)
        t = self.tmlp(sinusoids(1000 * t, self.tdim).to(x.dtype))
        vec, more = self.tproj(t), {"transformer_options": {}}
        text = self.txtmlp(self.txtfusion(context.unflatten(-1, (3, 8)), mask=None, **more))
        x = torch.cat([text, x], 1)
        ids = torch.zeros(words + height * width, 3)
        place = ids[words:].view(height, width, 3)
        place[..., 1], place[..., 2] = torch.arange(height)[:, None], torch.arange(width)[None]
        pe = self.pe_embedder(ids.expand(rows, -1, -1))
        for block in self.blocks:
            x = block(x, vec, pe, None, **more)
        x = self.last(x, t)[:, words:].view(rows, height, width, 16, 2, 2)
        x = x.permute(0, 3, 1, 4, 2, 5).reshape(rows, 16, 1, 2 * height, 2 * width)
        return x[..., :h, :w]


# --- Ernie ---


class ErnieImageEmbedND3(nn.Module):
    """Matrices [rows, tokens, 1, d / 2, 2, 2]; the two halves are turned by angles of their own."""

    def forward(self, ids: Tensor) -> Tensor:
        angles = []
        for axis, width in enumerate((4, 6, 6)):
            places = torch.arange(0, width, 2, dtype=torch.float64) / width
            angles.append(ids[..., axis, None].double() / 256**places)
        one, two = torch.cat(angles, -1).repeat_interleave(2, -1).chunk(2, -1)
        parts = [one.cos(), -one.sin(), two.sin(), two.cos()]
        return torch.stack(parts, -1).unflatten(-1, (2, 2)).float()[:, :, None]


class ErnieImagePatchEmbedDynamic(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.proj = nn.Conv2d(16, WIDTH, 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.proj(x).flatten(2).transpose(1, 2)


class ErnieTimesteps(nn.Module):
    def forward(self, t: Tensor) -> Tensor:
        cos, sin = sinusoids(t, WIDTH).chunk(2, -1)
        return torch.cat([sin, cos], -1)


class ErnieEmbedding(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear_1, self.act = nn.Linear(WIDTH, WIDTH), nn.SiLU()
        self.linear_2 = nn.Linear(WIDTH, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear_2(self.act(self.linear_1(x)))


class ErnieImageAttention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.heads = HEADS
        for name in ("to_q", "to_k", "to_v"):
            setattr(self, name, nn.Linear(WIDTH, WIDTH, bias=False))
        self.norm_q = nn.RMSNorm(WIDTH // HEADS, eps=1e-6)
        self.norm_k = nn.RMSNorm(WIDTH // HEADS, eps=1e-6)
        self.to_out = nn.ModuleList([nn.Linear(WIDTH, WIDTH, bias=False)])

    def forward(self, x, attention_mask=None, image_rotary_emb=None) -> Tensor:
        q, k, v = self.to_q(x), self.to_k(x), self.to_v(x)
        q, k, v = (part.unflatten(-1, (HEADS, -1)) for part in (q, k, v))
        q, k = (_turned(part, image_rotary_emb) for part in (self.norm_q(q), self.norm_k(k)))
        return self.to_out[0](attend(q, k, v))


def _turned(x: Tensor, pe: Tensor) -> Tensor:
    one, two = x.float().chunk(2, -1)
    made = [one * pe[..., i, 0] + two * pe[..., i, 1] for i in (0, 1)]
    return torch.cat(made, -1).to(x.dtype)


class ErnieImageFeedForward(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.gate_proj = nn.Linear(WIDTH, 64, bias=False)
        self.up_proj = nn.Linear(WIDTH, 64, bias=False)
        self.linear_fc2 = nn.Linear(64, WIDTH, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        up = self.up_proj(x)
        return self.linear_fc2(up * F.gelu(self.gate_proj(x)))


class ErnieImageSharedAdaLNBlock(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.adaLN_sa_ln = nn.RMSNorm(WIDTH, eps=1e-6)
        self.self_attention = ErnieImageAttention()
        self.adaLN_mlp_ln = nn.RMSNorm(WIDTH, eps=1e-6)
        self.mlp = ErnieImageFeedForward()

    def forward(self, x: Tensor, pe: Tensor, mods: list[Tensor]) -> Tensor:
        shift, scale, gate, shift2, scale2, gate2 = (mod.float() for mod in mods)
        inside = (self.adaLN_sa_ln(x).float() * (1 + scale) + shift).to(x.dtype)
        seen = self.self_attention(inside, attention_mask=None, image_rotary_emb=pe)
        x = x + (gate * seen.float()).to(x.dtype)
        inside = (self.adaLN_mlp_ln(x).float() * (1 + scale2) + shift2).to(x.dtype)
        return x + (gate2 * self.mlp(inside).float()).to(x.dtype)


class ErnieImageAdaLNContinuous(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(WIDTH, elementwise_affine=False, eps=1e-6)
        self.linear = nn.Linear(WIDTH, 2 * WIDTH)

    def forward(self, x: Tensor, c: Tensor) -> Tensor:
        made = self.linear(c)
        scale, shift = (made if made.ndim == 3 else made[:, None]).chunk(2, -1)
        return self.norm(x) * (1 + scale) + shift


class ErnieImageModel(Told):
    def __init__(self) -> None:
        super().__init__()
        self.patch_size = 1
        self.x_embedder = ErnieImagePatchEmbedDynamic()
        self.text_proj = nn.Linear(CONTEXT, WIDTH, bias=False)
        self.time_proj, self.time_embedding = ErnieTimesteps(), ErnieEmbedding()
        self.pos_embed = ErnieImageEmbedND3()
        self.adaLN_modulation = nn.Sequential(nn.SiLU(), nn.Linear(WIDTH, 6 * WIDTH))
        self.layers = nn.ModuleList(ErnieImageSharedAdaLNBlock() for _ in range(2))
        self.final_norm, self.final_linear = ErnieImageAdaLNContinuous(), nn.Linear(WIDTH, 16)

    def forward(self, x, timestep, context, text_t=None, **kwargs) -> Tensor:
        rows, _, height, width = x.shape
        image, text = self.x_embedder(x), self.text_proj(context)
        ids, cells = torch.zeros(height * width + text.shape[1], 3), height * width
        place = ids[:cells].view(height, width, 3)
        place[..., 0] = text.shape[1]
        place[..., 1], place[..., 2] = torch.arange(height)[:, None], torch.arange(width)[None]
        ids[cells:, 0] = torch.arange(text.shape[1])
        pe = self.pos_embed(ids.expand(rows, -1, -1))

        def embed(t: Tensor) -> Tensor:
            return self.time_embedding(self.time_proj(t).to(image.dtype))

        c = self.each(embed, timestep)
        if text_t is not None:
            c = torch.cat([c, embed(text_t)[:, None].expand(-1, text.shape[1], -1)], 1)
        mods = self.adaLN_modulation(c)
        mods = [*(mods if mods.ndim == 3 else mods[:, None]).chunk(6, -1)]
        x = torch.cat([image, text], 1)
        for layer in self.layers:
            x = layer(x, pe, mods)
        x = self.final_linear(self.final_norm(x, c))[:, :cells]
        return x.transpose(1, 2).reshape(rows, 16, height, width)


HOST = {
    ShiftedNorm: "RMSNorm", KreaQKNorm: "QKNorm", GatedAttention: "Attention",
    KreaBlock: "SingleStreamBlock", KreaLastLayer: "LastLayer", Krea: "SingleStreamDiT",
    ErnieTimesteps: "Timesteps", ErnieEmbedding: "TimestepEmbedding",
}  # fmt: skip
for _kind, _name in HOST.items():
    _kind.__name__ = _name
