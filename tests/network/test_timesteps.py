"""Many timesteps in one network call."""

from __future__ import annotations

import pytest
import torch
from networks import Case, diffusers_sd1
from reference import reference

from asyndm.bench.naive import attach_naive
from asyndm.core.rows import Rows
from asyndm.core.run import NetworkCall
from asyndm.core.schedule import PixelTime
from asyndm.network import RowsMismatch, UnsupportedNetwork, attach


def pixel_time(case: Case, batch: int, levels: int = 5, grid=(4, 6), seed: int = 1) -> PixelTime:
    generator = torch.Generator().manual_seed(seed)
    index = torch.randint(0, levels, (batch, *grid), generator=generator)
    clock = torch.linspace(3, 1, levels)
    return PixelTime(torch.linspace(9, 1, levels), index, clock, case.size)


def timesteps(levels: int) -> torch.Tensor:
    return torch.linspace(17, 983.5, levels)


def close(a: torch.Tensor, b: torch.Tensor, tolerance: float = 1e-5) -> None:
    scale = b.abs().max()
    assert torch.isfinite(a).all()
    assert float((a - b).abs().max() / scale) < tolerance


@pytest.mark.parametrize("levels", [1, 30])
def test_one_shared_timestep_is_the_plain_call(case: Case, levels: int) -> None:
    """The first test of every family. With several table rows, all of them equal."""
    rows = Rows.cond_then_uncond(2)
    call = NetworkCall(pixel_time(case, 2, levels), torch.full((levels,), 321.7), rows)
    inputs = case.inputs(4)
    plain = case(inputs, 321.7)
    with attach(case.unet, call):
        close(case(inputs, 5.0), plain)
    assert float((case(inputs, 5.0) - plain).abs().max() / plain.abs().max()) > 0.01


@pytest.mark.parametrize("levels", [5, 30])  # 30 levels are more than an image's 24 cells
def test_a_field_of_timesteps_is_the_brute_force(case: Case, levels: int) -> None:
    if levels == 30 and case.size[0] > 32:
        pytest.skip("as slow as it is redundant")
    rows = Rows.of([0, 1, 1], [0, 0, -1])
    time = pixel_time(case, 2, levels)
    call = NetworkCall(time, timesteps(levels), rows)
    inputs = case.inputs(3)
    expected = reference(case, inputs, time, timesteps(levels), [0, 1, 1])
    with attach(case.unet, call):
        close(case(inputs, 5.0), expected)
    with attach_naive(case.unet, call):
        if case.guided:  # only the table can do that
            with pytest.raises(UnsupportedNetwork, match="naive"):
                case(inputs, 5.0)
        else:
            close(case(inputs, 5.0), expected)


def test_no_pixel_time_changes_nothing(case: Case) -> None:
    inputs = case.inputs(2)
    plain = case(inputs, 100.0)
    with attach(case.unet, NetworkCall()):
        assert torch.equal(case(inputs, 100.0), plain)


def test_an_image_of_a_batch_is_the_image_alone(small: Case) -> None:
    time = pixel_time(small, 3)
    inputs = small.inputs(6)
    call = NetworkCall(time, timesteps(5), Rows.uncond_then_cond(3))
    with attach(small.unet, call):
        together = small(inputs, 5.0)
        for image in range(3):
            alone = {name: value[[image, image + 3]] for name, value in inputs.items()}
            own = PixelTime(
                time.sigma_table, time.index[image : image + 1], time.clock_table, small.size
            )
            call.pixel_time, call.rows = own, Rows.uncond_then_cond(1)
            close(small(alone, 5.0), together[[image, image + 3]])


def test_split_calls_give_the_rows_of_the_whole(small: Case) -> None:
    """A host may cut the batch, also in the middle of an AND prompt, or leave rows out."""
    rows = Rows.cond_then_uncond(2, [1, 2])
    inputs = small.inputs(5)
    call = NetworkCall(pixel_time(small, 2), timesteps(5), rows)
    with attach(small.unet, call):
        whole = small(inputs, 5.0)
        for part in (slice(0, 2), slice(2, 3), slice(3, 5)):
            call.rows = rows[part]
            piece = {name: value[part] for name, value in inputs.items()}
            close(small(piece, 5.0), whole[part])


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_networks(small: Case, dtype: torch.dtype) -> None:
    """Arithmetic in the module's own type: equal to the plain half-precision call.

    diffusers runs half weights as they are; ldm and its hosts run them under autocast.
    """
    try:
        with torch.autocast("cpu", dtype):
            pass
    except RuntimeError as error:  # torch 2.1
        pytest.skip(f"this torch itself, on a CPU: {error}")
    rows = Rows.cond_then_uncond(1)
    call = NetworkCall(pixel_time(small, 1), torch.full((5,), 321.0), rows)
    inputs = small.inputs(2, dtype=dtype)
    small.unet.to(dtype)
    for module in small.unet.modules():
        if type(module).__name__ == "GroupNorm32":  # ldm's always calculates in float32
            module.float()
    try:
        with torch.autocast("cpu", dtype, enabled=small.ldm):
            plain = small(inputs, 321.0)
            with attach(small.unet, call):
                result = small(inputs, 5.0)
                assert result.dtype == plain.dtype
                close(result, plain, 2e-2)
                call.timestep_table = timesteps(5)
                assert torch.isfinite(small(inputs, 5.0)).all()
    finally:
        small.unet.float()


def test_rows_that_do_not_fit_are_one_clear_error(small: Case) -> None:
    call = NetworkCall(pixel_time(small, 1), timesteps(5), Rows.only_cond(1))
    inputs = small.inputs(2)
    with attach(small.unet, call):
        with pytest.raises(RowsMismatch, match="given 2 rows"):
            small(inputs, 5.0)
        call.rows = None
        with pytest.raises(RowsMismatch, match="is none"):
            small(inputs, 5.0)
        call.rows = Rows.only_cond(2)
        with pytest.raises(RowsMismatch, match="image 1"):
            small(inputs, 5.0)
        call.rows, call.timestep_table = Rows.cond_then_uncond(1), timesteps(4)
        with pytest.raises(RowsMismatch, match="4 timesteps for 5"):
            small(inputs, 5.0)
        call.timestep_table = timesteps(5)
        small(inputs, 5.0)


def test_networks_nobody_knows() -> None:
    with pytest.raises(UnsupportedNetwork, match="does not know this network"):
        attach(torch.nn.Conv2d(4, 4, 1), NetworkCall())
    with pytest.raises(UnsupportedNetwork, match="needs a torch network"):
        attach(lambda x: x, NetworkCall())


def test_a_compiled_network_is_refused(small: Case) -> None:
    with pytest.raises(UnsupportedNetwork, match="torch.compile"):
        attach(torch.compile(small.unet), NetworkCall())
    block = next(iter(small.unet.children()))
    block.compile()
    try:
        with pytest.raises(UnsupportedNetwork, match="torch.compile"):
            attach(small.unet, NetworkCall())
    finally:
        block._compiled_call_impl = None


def test_diffusers_blocks_of_another_kind_are_refused() -> None:
    diffusers = pytest.importorskip("diffusers")
    unet = diffusers.UNet2DConditionModel(
        block_out_channels=(32, 32), cross_attention_dim=32, norm_num_groups=8, mid_block_type=None,
        down_block_types=("KDownBlock2D", "KDownBlock2D"),
        up_block_types=("KUpBlock2D", "KUpBlock2D"),
    )  # fmt: skip
    with pytest.raises(UnsupportedNetwork):
        attach(unet, NetworkCall())


def test_nothing_waits_for_the_device() -> None:
    """On the meta device a look at a value is an error, as it is a stall on a GPU."""
    from networks import diffusers_sdxl

    case = diffusers_sdxl()
    case.unet.to("meta")
    time = pixel_time(case, 2)
    call = NetworkCall(
        PixelTime(
            *(t.to("meta") for t in (time.sigma_table, time.index, time.clock_table)), case.size
        ),
        timesteps(5).to("meta"),
        Rows.cond_then_uncond(2, device="meta"),
    )
    inputs = {name: value.to("meta") for name, value in case.inputs(4).items()}
    added = {"text_embeds": inputs["y"], "time_ids": inputs["time_ids"]}
    t = torch.empty(4, device="meta")
    with torch.no_grad(), attach(case.unet, call):
        out = case.unet(inputs["x"], t, inputs["context"], added_cond_kwargs=added).sample
    assert out.shape == inputs["x"].shape


def test_whole_timesteps_and_torchs_modes_change_nothing() -> None:
    """Pipelines give integers; inside torch.device(...) every operator passes through a mode."""
    case = diffusers_sd1()
    call = NetworkCall(pixel_time(case, 1), timesteps(5), Rows.cond_then_uncond(1))
    inputs = case.inputs(2)
    with attach(case.unet, call):
        expected = case(inputs, 5.0)
        with torch.device("cpu"):
            assert torch.equal(case(inputs, 5.0), expected)
        with torch.no_grad():
            whole = case.unet(inputs["x"], torch.full((2,), 5), inputs["context"]).sample
        assert torch.equal(whole, expected)


def test_a_block_that_takes_in_time_otherwise_is_said() -> None:
    case = diffusers_sd1()
    call = NetworkCall(pixel_time(case, 1), timesteps(5), Rows.cond_then_uncond(1))
    block = case.unet.mid_block.resnets[0]
    ahead = block.conv2.register_forward_pre_hook(
        lambda module, args: block.time_emb_proj(torch.zeros(2, 128))[:, None]
    )
    try:
        with attach(case.unet, call), pytest.raises(UnsupportedNetwork, match="unknown way"):
            case(case.inputs(2), 5.0)
    finally:
        ahead.remove()
