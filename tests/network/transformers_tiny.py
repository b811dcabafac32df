"""Tiny transformers with the structure of the real ones, random weights, and inputs for them."""

from __future__ import annotations

import functools
import os
import sys
import zlib
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import lookalikes
import lookalikes_flux
import lookalikes_flux2
import lookalikes_lumina
import lookalikes_qwen
import lookalikes_single
import lookalikes_video
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

TEXT = 9
CONTEXT = 24
POOLED = 20


@dataclass
class Tiny:
    """A transformer and how to call it.

    Attributes:
        call: (case, inputs, timestep [rows] or a number) -> output like the input.
        by_token: (case, inputs, timestep of every token [rows, L], of text [rows]) -> the same,
            worked out token by token, without asyndm.
        attention: (case, inputs, timestep) -> [rows, pixels, tokens] joint attention to the text,
            summed over layers, mean over heads; a second number for text-only softmax.
        unit: timestep = unit * sigma.
        patch: side of the squares of latents that are a token.
        packed: its latents are rows of 2x2 squares.
        reference: tokens behind the image's that keep the scalar.
        fill: tokens between the text's and the image's.
        half: how far half precision may be off, in its own steps of the largest value. Not 0 only
            where a network adds what is gated in one operation, which rounds once instead of twice.
        cross: text is attended to, never told the time.
        twin: what the brute force runs, where ``network`` is a host's own module.
    """

    network: nn.Module
    call: Callable
    by_token: Callable
    size: tuple[int, int] = (8, 12)
    unit: float = 1000.0
    packed: bool = False
    guided: bool = False
    reference: int = 0
    fill: int = 0
    patch: int = 2
    half: float = 0.0
    cross: bool = False
    twin: nn.Module | None = None
    more: dict[str, Any] = field(default_factory=dict)

    @property
    def tokens(self) -> tuple[int, int]:
        return (-(-self.size[0] // self.patch), -(-self.size[1] // self.patch))

    def inputs(self, rows: int, seed: int = 0, dtype=torch.float32) -> dict[str, Tensor]:
        generator = torch.Generator().manual_seed(seed)

        def draw(*shape: int) -> Tensor:
            return torch.randn(*shape, generator=generator).to(dtype)

        cells = self.tokens[0] * self.tokens[1] + (self.reference if self.packed else 0)
        shape = (16, 1, *self.size) if self.more.get("frames") else (16, *self.size)
        x = draw(rows, cells, 64) if self.packed else draw(rows, *shape)
        return {"x": x, "text": draw(rows, TEXT, CONTEXT), "pooled": draw(rows, POOLED)}

    def __call__(self, inputs: dict[str, Tensor], timestep: float | Tensor) -> Tensor:
        rows = len(inputs["x"])
        time = torch.as_tensor(timestep, dtype=torch.float32).expand(rows)
        with torch.no_grad():
            return self.call(self, inputs, time)


def randomise(network: nn.Module) -> nn.Module:
    """Weights by their names alone, so that every layer counts and copies of a network agree."""
    for name, parameter in network.named_parameters():
        generator = torch.Generator().manual_seed(zlib.crc32(name.encode()))
        noise = torch.randn(parameter.shape, generator=generator)
        if parameter.ndim > 1:
            parameter.data = noise / parameter[0].numel() ** 0.5
        else:
            parameter.data = 0.2 * noise + (name.endswith(("weight", "scale")))
    return network.eval()


# --- diffusers ---


def _sd3_call(case: Tiny, inputs: dict, time: Tensor) -> Tensor:
    return case.network(inputs["x"], inputs["text"], inputs["pooled"], time).sample


def _sd3(**changes: Any) -> Tiny:
    diffusers = pytest.importorskip("diffusers")
    if not hasattr(diffusers, "SD3Transformer2DModel"):
        pytest.skip("this diffusers has no Stable Diffusion 3")
    options = {
        "sample_size": 16, "num_layers": 3, "attention_head_dim": 8, "num_attention_heads": 4,
        "joint_attention_dim": CONTEXT, "caption_projection_dim": 32, "out_channels": 16,
        "pooled_projection_dim": POOLED, "in_channels": 16, "pos_embed_max_size": 12,
    }  # fmt: skip
    network = randomise(diffusers.SD3Transformer2DModel(**(options | changes)))
    return Tiny(network, _sd3_call, _sd3_by_token)


def sd3() -> Tiny:
    return _sd3()


def sd35() -> Tiny:
    try:
        return _sd3(dual_attention_layers=(0, 1), qk_norm="rms_norm")
    except TypeError:
        pytest.skip("this diffusers has no Stable Diffusion 3.5")


def _flux_ids(case: Tiny) -> Tensor:
    height, width = case.tokens
    ids = torch.zeros(height, width, 3)
    ids[..., 1] += torch.arange(height)[:, None]
    ids[..., 2] += torch.arange(width)[None]
    more = torch.tensor([[1.0, 0.0, float(place)] for place in range(case.reference)])
    return torch.cat([ids.flatten(0, 1), more.view(-1, 3)])


def _flux_call(case: Tiny, inputs: dict, time: Tensor) -> Tensor:
    x = inputs["x"]
    guidance = torch.full((len(x),), 3.5, dtype=x.dtype) if case.guided else None
    return case.network(
        hidden_states=x, encoder_hidden_states=inputs["text"], timestep=time,
        pooled_projections=inputs["pooled"], img_ids=_flux_ids(case).to(x),
        txt_ids=torch.zeros(TEXT, 3).to(x), guidance=guidance,
    ).sample  # fmt: skip


def diffusers_flux(guided: bool = True, reference: int = 0) -> Tiny:
    diffusers = pytest.importorskip("diffusers")
    if not hasattr(diffusers, "FluxTransformer2DModel"):
        pytest.skip("this diffusers has no Flux")
    network = diffusers.FluxTransformer2DModel(
        num_layers=2, num_single_layers=2, attention_head_dim=16, num_attention_heads=2,
        joint_attention_dim=CONTEXT, pooled_projection_dim=POOLED, guidance_embeds=guided,
        axes_dims_rope=(4, 4, 8), in_channels=64,
    )  # fmt: skip
    return Tiny(
        randomise(network), _flux_call, _flux_by_token, unit=1.0, packed=True, guided=guided,
        reference=reference,
    )  # fmt: skip


def schnell_with_reference() -> Tiny:
    return diffusers_flux(guided=False, reference=3)


def _modulated(projection: nn.Module, temb: Tensor, count: int) -> list[Tensor]:
    return projection(F.silu(temb)).chunk(count, dim=-1)


def _as_tokens(norm: nn.Module, h: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
    return norm(h) * (1 + scale) + shift


def _sd3_by_token(case: Tiny, inputs: dict, times: Tensor, text: Tensor) -> Tensor:
    """The network written out once more, each of its tokens with an embedding of its own."""
    net = case.network
    with torch.no_grad():
        embedded = torch.stack(
            [net.time_text_embed(times[:, i], inputs["pooled"]) for i in range(times.shape[1])], 1
        )
        scalar = net.time_text_embed(text, inputs["pooled"])
        h = net.pos_embed(inputs["x"])
        t = net.context_embedder(inputs["text"])
        for block in net.transformer_blocks:
            dual = getattr(block, "attn2", None) is not None
            mods = _modulated(block.norm1.linear, embedded, 9 if dual else 6)
            x = _as_tokens(block.norm1.norm, h, mods[1], mods[0])
            if block.context_pre_only:
                n = block.norm1_context(t, scalar)
            else:
                n, gate, shift, scale, gate2 = block.norm1_context(t, emb=scalar)
            a, at = block.attn(hidden_states=x, encoder_hidden_states=n)
            if dual:
                x2 = _as_tokens(block.norm1.norm, h, mods[7], mods[6])
                h = h + mods[2] * a + mods[8] * block.attn2(hidden_states=x2)
            else:
                h = h + mods[2] * a
            h = h + mods[5] * block.ff(_as_tokens(block.norm2, h, mods[4], mods[3]))
            if not block.context_pre_only:
                t = t + gate[:, None] * at
                n = block.norm2_context(t) * (1 + scale[:, None]) + shift[:, None]
                t = t + gate2[:, None] * block.ff_context(n)
        scale, shift = _modulated(net.norm_out.linear, embedded, 2)
        h = net.proj_out(_as_tokens(net.norm_out.norm, h, scale, shift))
    height, width = case.tokens
    h = h.view(len(h), height, width, 2, 2, -1).permute(0, 5, 1, 3, 2, 4)
    return h.reshape(len(h), -1, 2 * height, 2 * width)


def _flux_by_token(case: Tiny, inputs: dict, times: Tensor, text: Tensor) -> Tensor:
    net, x = case.network, inputs["x"]

    def embed(time: Tensor) -> Tensor:
        told = [time * 1000]
        if case.guided:
            told.append(torch.full_like(time, 3500.0))
        return net.time_text_embed(*told, inputs["pooled"])

    with torch.no_grad():
        image = torch.stack([embed(times[:, i]) for i in range(times.shape[1])], 1)
        scalar = embed(text)
        image = torch.cat([image, scalar[:, None].expand(-1, case.reference, -1)], 1)
        h, t = net.x_embedder(x), net.context_embedder(inputs["text"])
        rotary = net.pos_embed(torch.cat([torch.zeros(TEXT, 3), _flux_ids(case)]))
        for block in net.transformer_blocks:
            mods = _modulated(block.norm1.linear, image, 6)
            n, gate, shift, scale, gate2 = block.norm1_context(t, emb=scalar)
            a, at = block.attn(
                hidden_states=_as_tokens(block.norm1.norm, h, mods[1], mods[0]),
                encoder_hidden_states=n, image_rotary_emb=rotary,
            )  # fmt: skip
            h = h + mods[2] * a
            h = h + mods[5] * block.ff(_as_tokens(block.norm2, h, mods[4], mods[3]))
            t = t + gate[:, None] * at
            n = block.norm2_context(t) * (1 + scale[:, None]) + shift[:, None]
            t = t + gate2[:, None] * block.ff_context(n)
        h = torch.cat([t, h], 1)
        joint = torch.cat([scalar[:, None].expand(-1, TEXT, -1), image], 1)
        for block in net.single_transformer_blocks:
            shift, scale, gate = _modulated(block.norm.linear, joint, 3)
            n = _as_tokens(block.norm.norm, h, scale, shift)
            a = block.attn(hidden_states=n, image_rotary_emb=rotary)
            h = h + gate * block.proj_out(torch.cat([a, block.act_mlp(block.proj_mlp(n))], 2))
        scale, shift = _modulated(net.norm_out.linear, image, 2)
        return net.proj_out(_as_tokens(net.norm_out.norm, h[:, TEXT:], scale, shift))


# --- as WebUIs have them ---


def _host_call(case: Tiny, inputs: dict, time: Tensor, **more: Any) -> Tensor:
    if case.more.get("pooled", True):
        more["y"] = inputs["pooled"]
    if case.guided:
        more["guidance"] = torch.full((len(inputs["x"]),), 3.5)
    return case.network(inputs["x"], time, context=inputs["text"], **more)


def _host_by_token(case: Tiny, inputs: dict, times: Tensor, text: Tensor) -> Tensor:
    with torch.no_grad():
        twin = replace(case, network=case.twin or case.network)
        return _host_call(twin, inputs, times, text_t=text)


def _own(name: str, alike: nn.Module, **more: Any) -> Tiny:
    """A look-alike; the host's own module where ``ASYNDM_OWN`` holds its flags."""
    twin = randomise(alike)
    flags = os.environ.get("ASYNDM_OWN")
    if flags is None:
        return Tiny(twin, _host_call, _host_by_token, **more)
    from contract import build

    given, sys.argv = sys.argv, ["webui.py", *flags.split()]
    try:
        return Tiny(build(name), _host_call, _host_by_token, twin=twin, **more)
    finally:
        sys.argv = given


def neo_lumina() -> Tiny:
    network = lookalikes_lumina.NextDiT()
    return _own("neo_lumina", network, size=(7, 11), unit=1.0, more={"pooled": False})


def neo_z_image() -> Tiny:
    network = lookalikes_lumina.NextDiT(z=True)
    return _own(
        "neo_z_image", network, unit=1.0, reference=8, fill=23, more={"pooled": False}
    )  # fmt: skip


def a1111_sd3() -> Tiny:
    return _own("a1111_sd3", lookalikes.MMDiT())


def forge_sd3() -> Tiny:
    return _own("forge_sd3", lookalikes.MMDiTX())


def forge_sd35() -> Tiny:
    network = lookalikes.MMDiTX(depth=3, qk_norm=True, dual=(0, 1), registers=2)
    return _own("forge_sd35", network)


def forge_flux() -> Tiny:
    network = lookalikes_flux.IntegratedFluxTransformer2DModel()
    return _own("forge_flux", network, size=(7, 11), unit=1.0, guided=True)


def forge_chroma() -> Tiny:
    network = lookalikes_flux.IntegratedChromaTransformer2DModel()
    return _own("forge_chroma", network, unit=1.0, more={"pooled": False})


def neo_qwen() -> Tiny:
    network = lookalikes_qwen.QwenImageTransformer2DModel()
    more = {"pooled": False, "frames": True}
    return _own("neo_qwen", network, size=(7, 11), unit=1.0, half=2, more=more)


def neo_flux() -> Tiny:
    return _own("neo_flux", lookalikes_flux2.NeoFlux(), size=(7, 11), unit=1.0, guided=True)


def neo_flux2() -> Tiny:
    network = lookalikes_flux2.NeoFlux(two=True)
    return _own("neo_flux2", network, size=(4, 6), patch=1, unit=1.0, more={"pooled": False})


def neo_chroma() -> Tiny:
    network = lookalikes_flux2.NeoChroma()
    return _own("neo_chroma", network, size=(7, 11), unit=1.0, more={"pooled": False})


def neo_anima() -> Tiny:
    more = {"pooled": False, "frames": True}
    return _own(
        "neo_anima", lookalikes_video.Anima(), size=(7, 11), unit=1.0, half=2, cross=True, more=more
    )  # fmt: skip


def neo_wan() -> Tiny:
    more = {"pooled": False, "frames": True}
    return _own("neo_wan", lookalikes_video.WanModel(), size=(7, 11), cross=True, more=more)


def neo_krea() -> Tiny:
    more = {"pooled": False, "frames": True}
    return _own("neo_krea", lookalikes_single.Krea(), size=(7, 11), unit=1.0, more=more)


def neo_ernie() -> Tiny:
    network = lookalikes_single.ErnieImageModel()
    return _own("neo_ernie", network, size=(4, 6), patch=1, more={"pooled": False, "behind": True})


DIFFUSERS = (sd3, sd35, diffusers_flux, schnell_with_reference)
HOSTS = (a1111_sd3, forge_sd3, forge_sd35, forge_flux, forge_chroma)
NEO = (
    neo_lumina,
    neo_z_image,
    neo_qwen,
    neo_flux,
    neo_flux2,
    neo_chroma,
    neo_anima,
    neo_wan,
    neo_krea,
    neo_ernie,
)
MAKERS = {maker.__name__: maker for maker in (*DIFFUSERS, *HOSTS, *NEO)}


@functools.cache
def make(name: str) -> Tiny:
    """Each made once."""
    return MAKERS[name]()
