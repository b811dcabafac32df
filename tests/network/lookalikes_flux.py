"""Flux.1 and Chroma as WebUIs carry them, see lookalikes.py."""

from __future__ import annotations

import torch
from lookalikes import (
    CONTEXT,
    POOLED,
    FinalLayer,
    RMSNorm,
    Told,
    by_token,
    scaled,
    sinusoids,
)
from torch import Tensor, nn
from torch.nn import functional as F


class EmbedND(nn.Module):
    """Rotary matrices [rows, 1, tokens, d / 2, 2, 2]."""

    def __init__(self, axes: tuple[int, ...], theta: float = 10000) -> None:
        super().__init__()
        self.axes, self.theta = axes, theta

    def forward(self, ids: Tensor) -> Tensor:
        angles = []
        for axis, width in enumerate(self.axes):
            places = torch.arange(0, width, 2, dtype=torch.float64) / width
            angles.append(ids[..., axis, None].double() / self.theta**places)
        angle = torch.cat(angles, -1)
        rows = [angle.cos(), -angle.sin(), angle.sin(), angle.cos()]
        return torch.stack(rows, -1).unflatten(-1, (2, 2)).float()[:, None]


def rotated(x: Tensor, pe: Tensor) -> Tensor:
    return (pe.float() @ x.float().unflatten(-1, (-1, 2, 1))).flatten(-3).to(x.dtype)


def attend_rotated(q: Tensor, k: Tensor, v: Tensor, pe: Tensor) -> Tensor:
    seen = F.scaled_dot_product_attention(rotated(q, pe), rotated(k, pe), v)
    return seen.transpose(1, 2).flatten(2)


class MLPEmbedder(nn.Module):
    def __init__(self, inside: int, width: int) -> None:
        super().__init__()
        self.in_layer, self.silu = nn.Linear(inside, width), nn.SiLU()
        self.out_layer = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        return self.out_layer(self.silu(self.in_layer(x)))


class QKNorm(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.query_norm, self.key_norm = RMSNorm(width, "scale"), RMSNorm(width, "scale")

    def forward(self, q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        return self.query_norm(q), self.key_norm(k)


class FluxAttention(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv, self.norm = nn.Linear(width, 3 * width), QKNorm(width // heads)
        self.proj = nn.Linear(width, width)

    def before(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        q, k, v = self.qkv(x).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        return *self.norm(q, k, v), v


FluxAttention.__name__ = "SelfAttention"


class Modulation(nn.Module):
    def __init__(self, width: int, count: int) -> None:
        super().__init__()
        self.count, self.lin = count, nn.Linear(width, count * width)

    def forward(self, vec: Tensor) -> tuple[Tensor, ...]:
        return by_token(self.lin(F.silu(vec))).chunk(self.count, -1)


def feed_forward(width: int) -> nn.Sequential:
    gelu = nn.GELU(approximate="tanh")
    return nn.Sequential(nn.Linear(width, 4 * width), gelu, nn.Linear(4 * width, width))


class DoubleStreamBlock(nn.Module):
    def __init__(self, width: int, heads: int, modulated: bool) -> None:
        super().__init__()
        self.num_heads, self.modulated = heads, modulated
        for kind in ("img", "txt"):
            if modulated:
                setattr(self, f"{kind}_mod", Modulation(width, 6))
            norm = nn.LayerNorm(width, elementwise_affine=False, eps=1e-6)
            setattr(self, f"{kind}_norm1", norm)
            setattr(self, f"{kind}_attn", FluxAttention(width, heads))
            norm = nn.LayerNorm(width, elementwise_affine=False, eps=1e-6)
            setattr(self, f"{kind}_norm2", norm)
            setattr(self, f"{kind}_mlp", feed_forward(width))

    def forward(self, img, txt, pe, vec=None, mod=None, text_vec=None):
        stream, mods, parts = {"img": img, "txt": txt}, {}, {}
        for kind, pair in zip(("img", "txt"), mod or ()):
            mods[kind] = (*pair[0].vectors, *pair[1].vectors)
        for kind in ("img", "txt"):
            if self.modulated:
                told = text_vec if kind == "txt" and text_vec is not None else vec
                mods[kind] = getattr(self, f"{kind}_mod")(told)
            x = scaled(getattr(self, f"{kind}_norm1")(stream[kind]), *mods[kind][:2])
            parts[kind] = getattr(self, f"{kind}_attn").before(x)
        joint = (torch.cat([text, image], 2) for text, image in zip(parts["txt"], parts["img"]))
        seen = attend_rotated(*joint, pe)
        seen = {"txt": seen[:, : txt.shape[1]], "img": seen[:, txt.shape[1] :]}
        for kind in ("img", "txt"):
            _, _, gate, shift, scale, gate2 = mods[kind]
            x = stream[kind] + gate * getattr(self, f"{kind}_attn").proj(seen[kind])
            inside = scaled(getattr(self, f"{kind}_norm2")(x), shift, scale)
            stream[kind] = x + gate2 * getattr(self, f"{kind}_mlp")(inside)
        return stream["img"], stream["txt"]


class SingleStreamBlock(nn.Module):
    def __init__(self, width: int, heads: int, modulated: bool) -> None:
        super().__init__()
        self.num_heads, self.width, self.modulated = heads, width, modulated
        self.linear1 = nn.Linear(width, 7 * width)
        self.linear2 = nn.Linear(5 * width, width)
        self.norm = QKNorm(width // heads)
        self.pre_norm = nn.LayerNorm(width, elementwise_affine=False, eps=1e-6)
        self.mlp_act = nn.GELU(approximate="tanh")
        if modulated:
            self.modulation = Modulation(width, 3)

    def forward(self, x: Tensor, pe: Tensor, vec=None, mod=None) -> Tensor:
        shift, scale, gate = self.modulation(vec) if self.modulated else mod.vectors
        inside = self.linear1(scaled(self.pre_norm(x), shift, scale))
        qkv, mlp = inside.split([3 * self.width, 4 * self.width], -1)
        q, k, v = qkv.unflatten(-1, (3, self.num_heads, -1)).permute(2, 0, 3, 1, 4)
        seen = attend_rotated(*self.norm(q, k, v), v, pe)
        return x + gate * self.linear2(torch.cat([seen, self.mlp_act(mlp)], -1))


class ModulationOut:
    def __init__(self, shift: Tensor, scale: Tensor, gate: Tensor) -> None:
        self.vectors = (shift, scale, gate)


class LastLayer(FinalLayer):
    def __init__(self, width: int, out: int, modulated: bool) -> None:
        super().__init__(width, out)
        if not modulated:
            del self.adaLN_modulation

    def forward(self, x: Tensor, vec: Tensor | list) -> Tensor:
        if not isinstance(vec, list):
            return super().forward(x, vec)
        return self.linear(scaled(self.norm_final(x), *vec))


class _Layout(Told):
    modulated = True

    def __init__(self, width: int, heads: int, doubles: int, singles: int) -> None:
        super().__init__()
        self.pe_embedder = EmbedND((4, 6, 6))
        self.img_in, self.txt_in = nn.Linear(64, width), nn.Linear(CONTEXT, width)
        self.double_blocks = nn.ModuleList(
            DoubleStreamBlock(width, heads, self.modulated) for _ in range(doubles)
        )
        self.single_blocks = nn.ModuleList(
            SingleStreamBlock(width, heads, self.modulated) for _ in range(singles)
        )
        self.final_layer = LastLayer(width, 64, self.modulated)

    def forward(self, x, timestep, context, y=None, guidance=None, text_t=None, **kwargs):
        rows, _, h, w = x.shape
        x = F.pad(x, (0, w % 2, 0, h % 2), mode="circular")
        height, width = (h + 1) // 2, (w + 1) // 2
        img = x.view(rows, 16, height, 2, width, 2).permute(0, 2, 4, 1, 3, 5)
        img = img.reshape(rows, height * width, 64)
        ids = torch.zeros(height, width, 3)
        ids[..., 1] += torch.arange(height)[:, None]
        ids[..., 2] += torch.arange(width)[None]
        ids = torch.cat([torch.zeros(context.shape[1], 3), ids.view(-1, 3)])
        ids = ids.expand(rows, -1, -1)
        out = self.inside(img, context, ids, timestep, y, guidance, text_t)
        out = out.view(rows, height, width, 16, 2, 2).permute(0, 3, 1, 4, 2, 5)
        return out.reshape(rows, 16, 2 * height, 2 * width)[:, :, :h, :w]


class IntegratedFluxTransformer2DModel(_Layout):
    def __init__(self, guided: bool = True) -> None:
        super().__init__(32, 2, 2, 2)
        self.time_in, self.vector_in = MLPEmbedder(256, 32), MLPEmbedder(POOLED, 32)
        self.guidance_in = MLPEmbedder(256, 32) if guided else nn.Identity()
        self.guided = guided

    def inside(self, img, txt, ids, timestep, y, guidance, text_t) -> Tensor:
        img = self.img_in(img)

        def time(t: Tensor) -> Tensor:
            return self.time_in(sinusoids(1000 * t, 256).to(img.dtype))

        vec, parts = self.each(time, timestep), []
        if self.guided:
            parts.append(self.guidance_in(sinusoids(1000 * guidance, 256).to(img.dtype)))
        parts.append(self.vector_in(y))
        text = None if text_t is None else time(text_t)
        for part in parts:
            vec = vec + (part if vec.ndim == 2 else part[:, None])
            text = None if text is None else text + part
        txt = self.txt_in(txt)
        pe = self.pe_embedder(ids)
        for block in self.double_blocks:
            more = {} if text is None else {"text_vec": text}
            img, txt = block(img=img, txt=txt, vec=vec, pe=pe, **more)
        joint = vec
        if text is not None:
            joint = torch.cat([text[:, None].expand(-1, txt.shape[1], -1), vec], 1)
        x = torch.cat([txt, img], 1)
        for block in self.single_blocks:
            x = block(x, vec=joint, pe=pe)
        return self.final_layer(x[:, txt.shape[1] :], vec)


class Approximator(nn.Module):
    def __init__(self, width: int, layers: int) -> None:
        super().__init__()
        self.in_proj = nn.Linear(64, width)
        self.layers = nn.ModuleList(MLPEmbedder(width, width) for _ in range(layers))
        self.norms = nn.ModuleList(RMSNorm(width, "scale") for _ in range(layers))
        self.out_proj = nn.Linear(width, 32)

    def forward(self, x: Tensor) -> Tensor:
        x = self.in_proj(x)
        for layer, norm in zip(self.layers, self.norms):
            x = x + layer(norm(x))
        return self.out_proj(x)


class IntegratedChromaTransformer2DModel(_Layout):
    modulated = False

    def __init__(self) -> None:
        super().__init__(32, 2, 2, 2)
        self.distilled_guidance_layer = Approximator(24, 2)

    def inside(self, img, txt, ids, timestep, y, guidance, text_t) -> Tensor:
        img = self.img_in(img)
        doubles, singles = len(self.double_blocks), len(self.single_blocks)
        count = 12 * doubles + 3 * singles + 2

        def vectors(t: Tensor) -> Tensor:
            told = torch.cat([sinusoids(1000 * t, 16), sinusoids(0 * t, 16)], -1)
            place = sinusoids(1000.0 * torch.arange(count), 32)
            told = torch.cat(
                [
                    told[:, None].expand(-1, count, -1),
                    place[None].expand(len(t), -1, -1),
                ],
                -1,
            )
            return self.distilled_guidance_layer(told.to(img.dtype))

        if timestep.ndim == 1:
            image = text = vectors(timestep)[:, None]
        else:
            image = torch.stack([vectors(timestep[:, i]) for i in range(timestep.shape[1])], 1)
            text = vectors(text_t)[:, None]
        txt, pe = self.txt_in(txt), self.pe_embedder(ids)

        def some(which: Tensor, first: int) -> ModulationOut:
            return ModulationOut(*which[:, :, first : first + 3].unbind(2))

        for i, block in enumerate(self.double_blocks):
            first = 3 * singles + 6 * i
            mod = [
                [some(which, place), some(which, place + 3)]
                for which, place in ((image, first), (text, first + 6 * doubles))
            ]
            img, txt = block(img=img, txt=txt, mod=mod, pe=pe)
        joint, words = image, txt.shape[1]
        if timestep.ndim == 2:
            joint = torch.cat([text.expand(-1, words, -1, -1), image], 1)
        x = torch.cat([txt, img], 1)
        for i, block in enumerate(self.single_blocks):
            x = block(x, mod=some(joint, 3 * i), pe=pe)
        final = image[:, :, 3 * singles + 12 * doubles :]
        return self.final_layer(x[:, words:], [*final.unbind(2)])
