"""Networks that hooks cannot see into: nunchaku's and compiled ones are one line each."""

from __future__ import annotations

import networks
import pytest
import torch
from torch import nn
from transformers_tiny import MAKERS, Tiny, make

from asyndm.core.run import NetworkCall
from asyndm.network import AttentionCapture, UnsupportedNetwork, attach


@pytest.fixture(params=MAKERS)
def case(request: pytest.FixtureRequest) -> Tiny:
    return make(request.param)


def kind(name: str, module: str, base: type = nn.Module) -> type:
    """A class as a library names it."""
    return type(name, (base,), {"__module__": module})


# What the library puts in the place of projections, norms and blocks, and what hosts make of them.
PARTS = {
    "SVDQW4A4Linear": "nunchaku.models.linear",
    "AWQW4A16Linear": "nunchaku.models.linear",
    "NunchakuFluxTransformerBlock": "nunchaku.models.transformers.transformer_flux_v2",
    "NunchakuFluxAttention": "nunchaku.models.attention",
    "NunchakuFeedForward": "backend.nn.svdq",  # Forge Neo's own
}


def refused(network: nn.Module, line: str) -> None:
    before = [len(m._forward_hooks) + len(m._forward_pre_hooks) for m in network.modules()]
    for capture in (None, AttentionCapture([[[[1]]]])):
        with pytest.raises(UnsupportedNetwork, match=line) as told:
            attach(network, NetworkCall(), capture)
        assert "\n" not in str(told.value)
    assert before == [len(m._forward_hooks) + len(m._forward_pre_hooks) for m in network.modules()]


def test_norms_of_a_transformer_are_one_line(case: Tiny) -> None:
    with pytest.raises(UnsupportedNetwork, match="group norms"):
        attach(case.network, NetworkCall(), norms=object())


@pytest.mark.parametrize("name", PARTS)
def test_parts_of_nunchaku(case: Tiny, name: str) -> None:
    case.network.part = kind(name, PARTS[name])()
    try:
        refused(case.network, "nunchaku .* load plain, GGUF, NF4 or fp8")
    finally:
        del case.network.part


@pytest.mark.parametrize("name", ["forge_flux", "diffusers_flux", "neo_qwen", "neo_z_image"])
def test_a_network_of_nunchakus_class(name: str) -> None:
    """Its structure is the family's own, as far as it can be seen."""
    network, name = make(name).network, "NunchakuFluxTransformer2dModel"
    own = type(network)
    network.__class__ = kind(name, "nunchaku.models.transformers.transformer_flux", own)
    try:
        refused(network, "nunchaku")
    finally:
        network.__class__ = own


def test_a_wrapper_that_no_family_knows() -> None:
    """Forge Neo's around the library's Flux, whose blocks are one module without parts."""
    wrapped = kind("SVDQFluxTransformer2DModel", "backend.nn.svdq")()
    wrapped.model = kind("NunchakuFluxTransformer2dModel", "nunchaku.models.transformers")()
    refused(wrapped, "nunchaku")


def test_a_unet_with_projections_of_nunchaku() -> None:
    """Its Stable Diffusion XL."""
    unet = networks.diffusers_sdxl().unet
    middle = unet.mid_block.attentions[0].transformer_blocks[0].attn1
    middle.to_q = kind("SVDQW4A4Linear", "nunchaku.models.linear", nn.Linear)(64, 64)
    refused(unet, "nunchaku")


COMPILED = [(n, w) for n in ("sd3", "forge_flux") for w in ("network", "in place", "forward")]
ALL = ("sd3", "a1111_sd3", "forge_sd35", "forge_flux", "forge_chroma")
COMPILED += [(name, "a part") for name in ALL]


@pytest.mark.parametrize(("name", "way"), COMPILED)
def test_compiled_for_real(name: str, way: str) -> None:
    """By torch's ``eager`` compiler, which runs what dynamo has made of the modules."""
    torch._dynamo.reset()
    case = MAKERS[name]()
    network = case.network
    part = next(m for n, m in network.named_modules() if n.endswith(("mlp", "ff")))
    if way == "network":
        refused(torch.compile(network, backend="eager"), "switch torch.compile off")
        return
    if way == "forward":
        part.forward = torch.compile(part.forward, backend="eager")
    else:
        (network if way == "in place" else part).compile(backend="eager")
    plain = case(case.inputs(1), 0.3 * case.unit)
    refused(network, "switch torch.compile off")
    assert torch.equal(case(case.inputs(1), 0.3 * case.unit), plain)
