"""asyndm.steer: networks that cannot be looked into, threads, adapters and offloading."""

from __future__ import annotations

import copy
import threading

import diffusers
import pytest
import torch
from steer_toys import GENERAL, STRONG, Toys, close, hooks, made, steered

from asyndm import Settings
from asyndm.network import UnsupportedNetwork


@pytest.fixture(scope="module")
def toys(tmp_path_factory):
    return Toys(tmp_path_factory.mktemp("steer"))


@pytest.fixture
def pipe(toys):
    return toys.pipe()


@pytest.fixture
def own(pipe):
    """The pipeline with a network that may be changed."""
    own = diffusers.StableDiffusionPipeline(
        **{**pipe.components, "unet": copy.deepcopy(pipe.unet)}, requires_safety_checker=False
    )
    own.set_progress_bar_config(disable=True)
    return own


def test_compiled_fused_and_threads_are_one_line_each(pipe, own):
    own.fuse_qkv_projections()
    with pytest.raises(UnsupportedNetwork, match="unfuse_qkv_projections"):
        steered(own, STRONG)
    own.unfuse_qkv_projections()  # the remedy is one
    assert torch.equal(steered(own, STRONG)[0], steered(pipe, STRONG)[0])
    own.unet.compile()
    with pytest.raises(UnsupportedNetwork, match="switch torch.compile off"):
        steered(own, STRONG)
    other = diffusers.StableDiffusionPipeline(**pipe.components, requires_safety_checker=False)
    other.set_progress_bar_config(disable=True)
    other.scheduler = diffusers.DDIMScheduler.from_config(pipe.scheduler.config)
    errors = []

    def meanwhile(pipe, step, timestep, values):
        for each in (pipe, other) if step == 1 else ():
            thread = threading.Thread(target=attempt, args=(each,))
            thread.start()
            thread.join()
        return values

    def attempt(pipe):
        try:
            made(pipe)
        except RuntimeError as error:
            errors.append(str(error))

    moved, _ = steered(pipe, STRONG, callback_on_step_end=meanwhile)
    assert "steered in another thread; call it from one" in errors[0]
    assert "Another thread steers this network" in errors[1]
    assert torch.equal(moved, steered(pipe, STRONG)[0])


def test_ip_adapter(pipe, own):
    unet = own.unet
    generator, width = torch.Generator().manual_seed(5), unet.config.cross_attention_dim
    adapter = {
        "image_proj": {
            "proj.weight": torch.randn(4 * width, 8, generator=generator),
            "proj.bias": torch.zeros(4 * width),
            "norm.weight": torch.ones(width),
            "norm.bias": torch.zeros(width),
        },
        "ip_adapter": {},
    }
    number = 1
    for name in unet.attn_processors:
        if "attn2" not in name:
            continue
        inner = unet.get_submodule(name.removesuffix(".processor")).to_q.out_features
        for part in "kv":
            adapter["ip_adapter"][f"{number}.to_{part}_ip.weight"] = 0.3 * torch.randn(
                inner, width, generator=generator
            )
        number += 2
    own.load_ip_adapter(
        adapter, subfolder=None, weight_name=None, image_encoder_folder=None,
        low_cpu_mem_usage=False,
    )  # fmt: skip
    image = torch.randn(2, 1, 8, generator=generator)
    plain = made(own, ip_adapter_image_embeds=[image])
    assert (plain - made(pipe)).abs().max() > 1e-2
    close(steered(own, GENERAL, ip_adapter_image_embeds=[image])[0], plain)
    nothing = Settings(curvature=1e-9, guidance="pag", perturbed_scale=0.0)
    close(steered(own, nothing, ip_adapter_image_embeds=[image])[0], plain)
    assert (steered(own, STRONG, ip_adapter_image_embeds=[image])[0] - plain).abs().max() > 1e-2


def test_lora(pipe, own):
    peft = pytest.importorskip("peft", reason="pip install peft accelerate")
    config = peft.LoraConfig(r=4, init_lora_weights=False, target_modules=["to_q", "to_k", "to_v"])
    torch.manual_seed(2)
    own.unet.add_adapter(config)
    plain = made(own)
    assert (plain - made(pipe)).abs().max() > 1e-2
    close(steered(own, GENERAL)[0], plain)
    moved, _ = steered(own, STRONG)
    assert (moved - plain).abs().max() > 1e-2 and hooks(own) == 0


@pytest.mark.parametrize("how", ["model", "sequential"])
def test_offloading(pipe, own, how, monkeypatch):
    accelerate = pytest.importorskip("accelerate", reason="pip install peft accelerate")
    if how == "model":
        own.enable_model_cpu_offload(device="cpu")
    else:  # weights are nowhere until their layer runs; of the network alone, for want of a GPU
        accelerate.cpu_offload(own.unet.requires_grad_(False), torch.device("cpu"))
        monkeypatch.setattr(type(own), "_execution_device", torch.device("cpu"))
        assert next(own.unet.parameters()).device.type == "meta"
    for settings in (STRONG, Settings(curvature=0.7, guidance="pag")):
        assert torch.equal(steered(own, settings)[0], steered(pipe, settings)[0])
