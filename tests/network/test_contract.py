"""The look-alikes keep the contract that a run on the hosts' own modules recorded."""

from __future__ import annotations

import json

import lookalikes
import lookalikes_flux
import lookalikes_flux2
import lookalikes_lumina
import lookalikes_qwen
import lookalikes_single
import lookalikes_video
import pytest
import torch
from contract import DATA, OWN, record
from transformers_tiny import randomise


def alike(name: str) -> torch.nn.Module:
    make = {
        "a1111_sd3": lookalikes.MMDiT,
        "forge_sd3": lookalikes.MMDiTX,
        "forge_sd35": lambda: lookalikes.MMDiTX(3, qk_norm=True, dual=(0, 1), registers=2),
        "forge_flux": lookalikes_flux.IntegratedFluxTransformer2DModel,
        "forge_chroma": lookalikes_flux.IntegratedChromaTransformer2DModel,
        "neo_anima": lookalikes_video.Anima,
        "neo_wan": lookalikes_video.WanModel,
        "neo_krea": lookalikes_single.Krea,
        "neo_ernie": lookalikes_single.ErnieImageModel,
        "neo_flux": lookalikes_flux2.NeoFlux,
        "neo_chroma": lookalikes_flux2.NeoChroma,
        "neo_flux2": lambda: lookalikes_flux2.NeoFlux(two=True),
        "neo_qwen": lookalikes_qwen.QwenImageTransformer2DModel,
        "neo_lumina": lookalikes_lumina.NextDiT,
        "neo_z_image": lambda: lookalikes_lumina.NextDiT(z=True),
    }[name]
    return randomise(make())


def differences(name: str, network: torch.nn.Module) -> list[str]:
    """What of a network is not as recorded, one line each."""
    own = json.loads((DATA / f"contract-{name}.json").read_text("utf-8"))
    ours = record(network, name)
    found = [
        f"{part} differ" for part in ("classes", "parameters", "told") if own[part] != ours[part]
    ]
    if len(own["calls"]) != len(ours["calls"]):
        return [*found, f"{len(ours['calls'])} calls, not {len(own['calls'])}"]
    for (*call, size), (*mine, other) in zip(own["calls"], ours["calls"]):
        if call != mine:
            found.append(f"call {mine}, not {call}")
        elif abs(size - other) > 1e-4 * max(abs(size), 1e-3):
            found.append(f"{call[0]} gives {other}, not {size}")
    gap = torch.tensor(own["output"]) - torch.tensor(ours["output"])
    if float(gap.abs().max()) > 1e-4:
        found.append(f"the output differs by {float(gap.abs().max())}")
    return found


@pytest.mark.parametrize("name", OWN)
def test_a_look_alike_is_the_hosts_module(name: str) -> None:
    assert not differences(name, alike(name))


def test_a_renamed_module_breaks_the_contract() -> None:
    network = alike("forge_flux")
    attention = network.double_blocks[1].img_attn
    attention.__dict__["proj"] = attention._modules["proj"]  # it runs as before
    attention._modules["output"] = attention._modules.pop("proj")
    assert any("classes differ" in line for line in differences("forge_flux", network))


@pytest.mark.parametrize("name", ["a1111_sd3", "forge_sd35", "forge_flux", "forge_chroma"])
def test_a_swapped_chunk_breaks_the_contract(name: str, monkeypatch) -> None:
    """Shift and scale in each other's places: names and shapes are as recorded."""
    plain = lookalikes.scaled
    for module in (lookalikes, lookalikes_flux):
        monkeypatch.setattr(module, "scaled", lambda x, one, two: plain(x, two, one))
    found = differences(name, alike(name))
    assert found and not any("classes" in line or "parameters" in line for line in found)


def test_what_hooks_read_besides_modules_is_in_the_contract() -> None:
    """A norm with an empty weight, as Forge's Flux has: hooks once took it for Neo's."""
    network = alike("forge_flux")
    del network.double_blocks[0].img_attn.norm.query_norm.weight
    assert differences("forge_flux", network) == ["told differ"]
    network = alike("forge_sd35")
    network.patch_size = 4
    assert "told differ" in differences("forge_sd35", network)


def test_another_order_of_calls_breaks_the_contract(monkeypatch) -> None:
    network = alike("forge_flux")
    block = network.double_blocks[0]
    own = block.forward

    def early(img, txt, pe, **more):
        block.txt_mod.lin(torch.zeros(2, 32))
        return own(img, txt, pe, **more)

    monkeypatch.setattr(block, "forward", early)
    assert differences("forge_flux", network)


# Of each family: a module that hooks are on, and a projection whose chunks have an order.
HOOKED = {
    "a1111_sd3": ("joint_blocks.0.x_block.attn.proj", "joint_blocks.0.x_block.adaLN_modulation"),
    "forge_sd3": ("joint_blocks.0.context_block.attn.ln_k", "final_layer.adaLN_modulation"),
    "forge_sd35": ("joint_blocks.1.x_block.attn2.proj", "joint_blocks.2.x_block.adaLN_modulation"),
    "forge_flux": ("single_blocks.0.linear2", "single_blocks.1.modulation.lin"),
    "neo_lumina": ("layers.1.feed_forward", "layers.0.adaLN_modulation"),
    "neo_z_image": ("noise_refiner.0.attention_norm2", "noise_refiner.0.adaLN_modulation"),
    "neo_anima": ("blocks.1.cross_attn.k_norm", "blocks.0.adaln_modulation_mlp"),
    "neo_wan": ("blocks.1.cross_attn.norm_q", "time_projection"),
    "neo_krea": ("blocks.1.attn.qknorm", "tproj"),
    "neo_ernie": ("layers.1.self_attention.norm_k", "adaLN_modulation"),
    "neo_flux": ("single_blocks.1.norm", "double_blocks.0.img_mod.lin"),
    "neo_flux2": ("double_blocks.1.img_attn.norm", "double_stream_modulation_img.lin"),
    "neo_qwen": ("transformer_blocks.1.attn.norm_added_k", "transformer_blocks.0.img_mod"),
}


@pytest.mark.parametrize("name", HOOKED)
def test_a_renamed_module_or_swapped_chunk_of_a_family_breaks_its_contract(name: str) -> None:
    network = alike(name)
    path, source = HOOKED[name]
    owner, _, own = path.rpartition(".")
    parent = network.get_submodule(owner)
    parent.__dict__[own] = parent._modules[own]  # it runs as before
    parent._modules["another"] = parent._modules.pop(own)
    assert any("classes differ" in line for line in differences(name, network))
    network = alike(name)
    network.get_submodule(source).register_forward_hook(swap_chunks)
    found = differences(name, network)
    assert found and not any("classes" in line or "parameters" in line for line in found)


@pytest.mark.parametrize("name", ["forge_chroma", "neo_chroma"])
def test_vectors_in_each_others_places_break_chromas_contract(name: str) -> None:
    network = alike(name)

    def swapped(module: torch.nn.Module, args: tuple, output: torch.Tensor) -> torch.Tensor:
        return output[:, [1, 0, *range(2, output.shape[1])]]

    network.distilled_guidance_layer.register_forward_hook(swapped)
    found = differences(name, network)
    assert found and not any("classes" in line or "parameters" in line for line in found)
    network = alike(name)
    attention = network.double_blocks[1].img_attn
    attention.__dict__["proj"] = attention._modules["proj"]  # it runs as before
    attention._modules["another"] = attention._modules.pop("proj")
    assert any("classes differ" in line for line in differences(name, network))


def swap_chunks(module: torch.nn.Module, args: tuple, output: torch.Tensor) -> torch.Tensor:
    """The first two of a projection's chunks in each other's places."""
    width = args[0].shape[-1]
    one, two, rest = output.split([width, width, output.shape[-1] - 2 * width], -1)
    return torch.cat([two, one, rest], -1)
