"""Counted operations of a call with many timesteps beside the plain call, at full depth.

On torch's meta device, so that twelve billion parameters need no memory:
``python -m pytest -m slow -s tests/network/test_transformer_cost.py``.
"""

from __future__ import annotations

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from asyndm.core.rows import Rows
from asyndm.core.run import NetworkCall
from asyndm.core.schedule import PixelTime
from asyndm.network import AttentionCapture, attach

pytestmark = pytest.mark.slow


def drawn(*shape: int) -> torch.Tensor:
    return torch.empty(*shape, device="meta", dtype=torch.bfloat16)


def sd35_medium():
    diffusers = pytest.importorskip("diffusers")
    with torch.device("meta"):
        network = diffusers.SD3Transformer2DModel(
            sample_size=128, num_layers=24, attention_head_dim=64, num_attention_heads=24,
            joint_attention_dim=4096, caption_projection_dim=1536, pooled_projection_dim=2048,
            out_channels=16, pos_embed_max_size=384, dual_attention_layers=tuple(range(13)),
            qk_norm="rms_norm",
        )  # fmt: skip
    network = network.to("meta", torch.bfloat16)
    inputs = (drawn(2, 16, 128, 128), drawn(2, 333, 4096), drawn(2, 2048))
    rows = Rows.uncond_then_cond(1, device="meta")
    return network, rows, lambda: network(*inputs, torch.empty(2, device="meta"))


def flux():
    diffusers = pytest.importorskip("diffusers")
    with torch.device("meta"):
        network = diffusers.FluxTransformer2DModel(
            num_layers=19, num_single_layers=38, attention_head_dim=128, num_attention_heads=24,
            joint_attention_dim=4096, pooled_projection_dim=768, guidance_embeds=True,
            in_channels=64,
        )  # fmt: skip
    network = network.to("meta", torch.bfloat16)
    inputs = {
        "hidden_states": drawn(1, 4096, 64), "encoder_hidden_states": drawn(1, 512, 4096),
        "pooled_projections": drawn(1, 768), "timestep": drawn(1), "guidance": drawn(1),
        "img_ids": drawn(4096, 3), "txt_ids": drawn(512, 3),
    }  # fmt: skip
    return network, Rows.only_cond(1, device="meta"), lambda: network(**inputs)


def operations(call) -> int:
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        call()
    return counter.get_total_flops()


@pytest.mark.parametrize("make", [sd35_medium, flux])
def test_many_timesteps_cost_a_few_percent_at_most(make) -> None:
    network, rows, call = make()
    plain = operations(call)
    for levels, most in ((10, 1.03), (50, 1.05)):
        table = torch.empty(levels, device="meta")
        index = torch.empty(1, 64, 64, dtype=torch.long, device="meta")
        told = NetworkCall(PixelTime(table, index, table, (128, 128), 2), table, rows)
        for softmax in ("text", "joint"):
            with attach(network, told, AttentionCapture([[[[3], [7]]]], softmax=softmax)):
                share = operations(call) / plain
            print(f"{make.__name__}, {levels} timesteps, {softmax} softmax: {share:.4f}")
            assert share <= (most if softmax == "text" else 1.12)
