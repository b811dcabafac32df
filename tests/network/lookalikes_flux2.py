"""Flux.1 and Flux.2 klein as Forge Neo carries them, see lookalikes.py."""

from __future__ import annotations

import torch
from lookalikes import CONTEXT, POOLED, Told, by_token, sinusoids
from lookalikes_flux import EmbedND, ModulationOut, attend_rotated
from lookalikes_qwen import fused
from torch import Tensor, nn
from torch.nn import functional as F

WIDTH, HEADS = 32, 2


def told(vec: Tensor) -> Tensor:
    return vec if vec.ndim == 3 else vec[:, None]


class NeoEmbedder(nn.Module):
    def __init__(self, inside: int, bias: bool) -> None:
        super().__init__()
        self.in_layer, self.silu = nn.Linear(inside, WIDTH, bias=bias), nn.SiLU()
        self.out_layer = nn.Linear(WIDTH, WIDTH, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        return self.out_layer(self.silu(self.in_layer(x)))


class NeoQKNorm(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.query_norm, self.key_norm = nn.RMSNorm(WIDTH // HEADS), nn.RMSNorm(WIDTH // HEADS)

    def forward(self, q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        return self.query_norm(q), self.key_norm(k)


class NeoAttention(nn.Module):
    def __init__(self, two: bool) -> None:
        super().__init__()
        self.qkv = nn.Linear(WIDTH, 3 * WIDTH, bias=not two)
        self.norm, self.proj = NeoQKNorm(), nn.Linear(WIDTH, WIDTH, bias=not two)

    def before(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        q, k, v = self.qkv(x).unflatten(-1, (3, HEADS, -1)).permute(2, 0, 3, 1, 4)
        return *self.norm(q, k, v), v


class NeoModulation(nn.Module):
    def __init__(self, count: int, bias: bool = True) -> None:
        super().__init__()
        self.count, self.lin = count, nn.Linear(WIDTH, count * WIDTH, bias=bias)

    def forward(self, vec: Tensor) -> tuple:
        chunks = self.lin(F.silu(told(vec))).chunk(self.count, -1)
        return ModulationOut(*chunks[:3]), ModulationOut(*chunks[3:]) if self.count > 3 else None


class SiLUActivation(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.gate_fn = nn.SiLU()

    def forward(self, x: Tensor) -> Tensor:
        one, two = x.chunk(2, -1)
        return self.gate_fn(one) * two


def feed_forward(two: bool) -> nn.Sequential:
    act = SiLUActivation() if two else nn.GELU(approximate="tanh")
    into, out = (6 * WIDTH, 3 * WIDTH) if two else (4 * WIDTH, 4 * WIDTH)
    layers = nn.Linear(WIDTH, into, bias=not two), act, nn.Linear(out, WIDTH, bias=not two)
    return nn.Sequential(*layers)


class NeoDouble(nn.Module):
    """``told``: it is given its vectors, as Flux.2's and Chroma's are."""

    def __init__(self, two: bool, told: bool | None = None) -> None:
        super().__init__()
        self.num_heads, self.told = HEADS, two if told is None else told
        for kind in ("img", "txt"):
            if not self.told:
                setattr(self, f"{kind}_mod", NeoModulation(6))
            for number in (1, 2):
                norm = nn.LayerNorm(WIDTH, elementwise_affine=False, eps=1e-6)
                setattr(self, f"{kind}_norm{number}", norm)
            setattr(self, f"{kind}_attn", NeoAttention(two))
            setattr(self, f"{kind}_mlp", feed_forward(two))

    def forward(self, img, txt, vec, pe, attn_mask=None, transformer_options=None, text_vec=None):
        if self.told:
            mods = dict(zip(("img", "txt"), vec))
        else:
            mods = {"img": self.img_mod(vec)}
            mods["txt"] = self.txt_mod(vec if text_vec is None else text_vec)
        stream, parts = {"img": img, "txt": txt}, {}
        for kind in ("img", "txt"):
            normed = getattr(self, f"{kind}_norm1")(stream[kind])
            parts[kind] = getattr(self, f"{kind}_attn").before(
                fused(normed, *mods[kind][0].vectors[:2])
            )
        joint = (torch.cat([text, image], 2) for text, image in zip(parts["txt"], parts["img"]))
        seen = attend_rotated(*joint, pe)
        seen = {"txt": seen[:, : txt.shape[1]], "img": seen[:, txt.shape[1] :]}
        for kind in ("img", "txt"):
            one, two = (mod.vectors for mod in mods[kind])
            x = stream[kind] + getattr(self, f"{kind}_attn").proj(seen[kind]) * one[2]
            inside = fused(getattr(self, f"{kind}_norm2")(x), *two[:2])
            stream[kind] = x + getattr(self, f"{kind}_mlp")(inside) * two[2]
        return stream["img"], stream["txt"]


class NeoSingle(nn.Module):
    def __init__(self, two: bool, told: bool | None = None) -> None:
        super().__init__()
        self.num_heads, told = HEADS, two if told is None else told
        self.inside = (6 if two else 4) * WIDTH
        self.linear1 = nn.Linear(WIDTH, 3 * WIDTH + self.inside, bias=not two)
        self.linear2 = nn.Linear((4 if two else 5) * WIDTH, WIDTH, bias=not two)
        self.norm = NeoQKNorm()
        self.pre_norm = nn.LayerNorm(WIDTH, elementwise_affine=False, eps=1e-6)
        self.mlp_act = SiLUActivation() if two else nn.GELU(approximate="tanh")
        self.modulation = None if told else NeoModulation(3)

    def forward(self, x, vec, pe, attn_mask=None, transformer_options=None) -> Tensor:
        mod = vec if self.modulation is None else self.modulation(vec)[0]
        shift, scale, gate = mod.vectors
        inside = self.linear1(fused(self.pre_norm(x), shift, scale))
        qkv, mlp = inside.split([3 * WIDTH, self.inside], -1)
        q, k, v = qkv.unflatten(-1, (3, HEADS, -1)).permute(2, 0, 3, 1, 4)
        seen = attend_rotated(*self.norm(q, k, v), v, pe)
        return x + self.linear2(torch.cat([seen, self.mlp_act(mlp)], -1)) * gate


class NeoLastLayer(nn.Module):
    def __init__(self, out: int, bias: bool) -> None:
        super().__init__()
        self.norm_final = nn.LayerNorm(WIDTH, elementwise_affine=False, eps=1e-6)
        self.linear = nn.Linear(WIDTH, out, bias=bias)
        projection = nn.Linear(WIDTH, 2 * WIDTH, bias=bias)
        self.adaLN_modulation = nn.Sequential(nn.SiLU(), projection)

    def forward(self, x: Tensor, vec: Tensor) -> Tensor:
        shift, scale = self.adaLN_modulation(told(vec)).chunk(2, -1)
        return self.linear(fused(self.norm_final(x), shift, scale))


class NeoFlux(Told):
    """Flux.1; ``two`` = Flux.2: patches of one latent pixel, and projections all blocks share."""

    def __init__(self, two: bool = False) -> None:
        super().__init__()
        self.two, self.patch_size, self.global_modulation = two, 1 if two else 2, two
        channels = 16 * self.patch_size**2
        self.pe_embedder = EmbedND((4, 4, 4, 4) if two else (4, 6, 6), 2000 if two else 10000)
        self.img_in = nn.Linear(channels, WIDTH, bias=not two)
        self.time_in = NeoEmbedder(256, not two)
        if not two:
            self.vector_in = NeoEmbedder(POOLED, True)
        self.guidance_in = nn.Identity() if two else NeoEmbedder(256, True)
        self.txt_in = nn.Linear(CONTEXT, WIDTH, bias=not two)
        self.double_blocks = nn.ModuleList(NeoDouble(two) for _ in range(2))
        self.single_blocks = nn.ModuleList(NeoSingle(two) for _ in range(2))
        self.final_layer = NeoLastLayer(channels, not two)
        if two:
            self.double_stream_modulation_img = NeoModulation(6, False)
            self.double_stream_modulation_txt = NeoModulation(6, False)
            self.single_stream_modulation = NeoModulation(3, False)

    def forward(self, x, timestep, context, y=None, guidance=None, text_t=None, **kwargs) -> Tensor:
        (rows, _, h, w), p = x.shape, self.patch_size
        x = F.pad(x, (0, -w % p, 0, -h % p), mode="circular")
        height, width = x.shape[-2] // p, x.shape[-1] // p
        img = x.view(rows, 16, height, p, width, p).permute(0, 2, 4, 1, 3, 5)
        img, words = img.reshape(rows, height * width, -1), context.shape[1]
        ids = torch.zeros(words + height * width, len(self.pe_embedder.axes))
        if self.two:
            ids[:words, 3] = torch.arange(words)
        place = ids[words:].view(height, width, -1)
        place[..., 1] = torch.arange(height)[:, None]
        place[..., 2] = torch.arange(width)[None]
        img = self.img_in(img)

        def embed(t: Tensor) -> Tensor:
            return self.time_in(sinusoids(1000 * t, 256).to(img.dtype))

        vec, text = self.each(embed, timestep), None if text_t is None else embed(text_t)
        if not self.two:
            parts = [self.guidance_in(sinusoids(1000 * guidance, 256).to(img.dtype))]
            for part in (*parts, self.vector_in(y)):
                vec = vec + (part if vec.ndim == 2 else by_token(part))
                text = None if text is None else text + part
        txt, own = self.txt_in(context), vec
        if self.two:
            own = self.double_stream_modulation_img(vec)
            own = own, self.double_stream_modulation_txt(vec if text is None else text)
        pe = self.pe_embedder(ids.expand(rows, -1, -1))
        more = {"attn_mask": None, "transformer_options": {}}
        for block in self.double_blocks:
            also = {} if text is None or self.two else {"text_vec": text}
            img, txt = block(img=img, txt=txt, vec=own, pe=pe, **more, **also)
        x, own = torch.cat([txt, img], 1), vec
        if text is not None:
            own = torch.cat([text[:, None].expand(-1, words, -1), vec], 1)
        if self.two:
            own = self.single_stream_modulation(own)[0]
        for block in self.single_blocks:
            x = block(x, vec=own, pe=pe, **more)
        out = self.final_layer(x[:, words:], vec).view(rows, height, width, 16, p, p)
        return out.permute(0, 3, 1, 4, 2, 5).reshape(rows, 16, height * p, width * p)[..., :h, :w]


class NeoApproximator(nn.Module):
    def __init__(self, width: int, layers: int) -> None:
        super().__init__()
        self.in_proj = nn.Linear(64, width)
        self.layers = nn.ModuleList(_embedder(width) for _ in range(layers))
        self.norms = nn.ModuleList(nn.RMSNorm(width) for _ in range(layers))
        self.out_proj = nn.Linear(width, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        x = self.in_proj(x)
        for layer, norm in zip(self.layers, self.norms):
            x = x + layer(norm(x))
        return self.out_proj(x)


def _embedder(width: int) -> NeoEmbedder:
    made = NeoEmbedder(width, True)
    made.in_layer, made.out_layer = nn.Linear(width, width), nn.Linear(width, width)
    return made


class ChromaModulationOut(ModulationOut):
    """Three of all the vectors."""


class NeoChromaLastLayer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm_final = nn.LayerNorm(WIDTH, elementwise_affine=False, eps=1e-6)
        self.linear = nn.Linear(WIDTH, 64)

    def forward(self, x: Tensor, vec: tuple[Tensor, Tensor]) -> Tensor:
        return self.linear(fused(self.norm_final(x), *vec))


class NeoChroma(Told):
    """Chroma; its vectors are as many as the whole model's, whatever its depth."""

    count = 344

    def __init__(self) -> None:
        super().__init__()
        self.patch_size = 2
        self.pe_embedder = EmbedND((4, 6, 6), 10000)
        self.img_in, self.txt_in = nn.Linear(64, WIDTH), nn.Linear(CONTEXT, WIDTH)
        self.distilled_guidance_layer = NeoApproximator(24, 2)
        self.double_blocks = nn.ModuleList(NeoDouble(False, True) for _ in range(2))
        self.single_blocks = nn.ModuleList(NeoSingle(False, True) for _ in range(2))
        self.final_layer = NeoChromaLastLayer()

    def vectors(self, t: Tensor) -> Tensor:
        said = torch.cat([sinusoids(1000 * t, 16), sinusoids(0 * t, 16)], -1)
        place = sinusoids(1000.0 * torch.arange(self.count), 32)
        rows = (len(t), self.count, -1)
        both = torch.cat([said[:, None].expand(rows), place.expand(rows)], -1)
        return self.distilled_guidance_layer(both.to(self.img_in.weight.dtype))

    def forward(self, x, timestep, context, guidance=None, text_t=None, **kwargs) -> Tensor:
        (rows, _, h, w), words = x.shape, context.shape[1]
        x = F.pad(x, (0, w % 2, 0, h % 2), mode="circular")
        height, width = x.shape[-2] // 2, x.shape[-1] // 2
        img = x.view(rows, 16, height, 2, width, 2).permute(0, 2, 4, 1, 3, 5)
        ids = torch.zeros(words + height * width, 3)
        place = ids[words:].view(height, width, -1)
        place[..., 1] = torch.arange(height)[:, None]
        place[..., 2] = torch.arange(width)[None]
        img = self.img_in(img.reshape(rows, height * width, -1))
        if timestep.ndim == 1:
            image = text = self.vectors(timestep)[:, None]
        else:
            image = torch.stack([self.vectors(t) for t in timestep.unbind(1)], 1)
            text = self.vectors(text_t)[:, None]
        txt, pe = self.txt_in(context), self.pe_embedder(ids.expand(rows, -1, -1))

        def some(which: Tensor, first: int) -> ModulationOut:
            return ChromaModulationOut(*which[:, :, first : first + 3].unbind(2))

        more = {"attn_mask": None, "transformer_options": {}}
        for i, block in enumerate(self.double_blocks):
            first = 3 * len(self.single_blocks) + 6 * i
            own = [
                (some(which, at), some(which, at + 3))
                for which, at in ((image, first), (text, first + 6 * len(self.double_blocks)))
            ]
            img, txt = block(img=img, txt=txt, vec=tuple(own), pe=pe, **more)
        joint = image
        if timestep.ndim == 2:
            joint = torch.cat([text.expand(-1, words, -1, -1), image], 1)
        x = torch.cat([txt, img], 1)
        for i, block in enumerate(self.single_blocks):
            x = block(x, vec=some(joint, 3 * i), pe=pe, **more)
        out = self.final_layer(x[:, words:], vec=image[:, :, -2:].unbind(2))
        out = out.view(rows, height, width, 16, 2, 2).permute(0, 3, 1, 4, 2, 5)
        return out.reshape(rows, 16, 2 * height, 2 * width)[..., :h, :w]


HOST = {
    NeoEmbedder: "MLPEmbedder", NeoQKNorm: "QKNorm", NeoAttention: "SelfAttention",
    NeoModulation: "Modulation", NeoDouble: "DoubleStreamBlock", NeoSingle: "SingleStreamBlock",
    NeoLastLayer: "LastLayer", NeoFlux: "IntegratedFluxTransformer2DModel",
    NeoApproximator: "Approximator", NeoChromaLastLayer: "LastLayer",
    NeoChroma: "IntegratedChromaTransformer2DModel",
}  # fmt: skip
for _kind, _name in HOST.items():
    _kind.__name__ = _name
