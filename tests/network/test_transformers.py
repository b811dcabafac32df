"""Transformers: a timestep for every token, and attention to words."""

from __future__ import annotations

import pytest
import torch
from transformers_tiny import DIFFUSERS, MAKERS, TEXT, Tiny, make

from asyndm.core.rows import Rows
from asyndm.core.run import NetworkCall
from asyndm.core.schedule import PixelTime
from asyndm.network import AttentionCapture, RowsMismatch, UnsupportedNetwork, attach, dit

LEVELS = 5


@pytest.fixture(params=MAKERS)
def case(request: pytest.FixtureRequest) -> Tiny:
    return make(request.param)


def pixel_time(case: Tiny, batch: int, levels: int = LEVELS, seed: int = 1, grid=None) -> PixelTime:
    generator = torch.Generator().manual_seed(seed)
    index = torch.randint(0, levels, (batch, *(grid or case.tokens)), generator=generator)
    table = torch.linspace(0.9, 0.1, levels)
    return PixelTime(table, index, torch.linspace(3, 1, levels), case.size, patch=case.patch)


def close(a: torch.Tensor, b: torch.Tensor, tolerance: float = 1e-5) -> None:
    assert torch.isfinite(a).all()
    assert float((a - b).abs().max() / b.abs().max()) < tolerance


def drop_reference(case: Tiny, output: torch.Tensor) -> torch.Tensor:
    return output[:, : case.tokens[0] * case.tokens[1]] if case.packed else output


@pytest.mark.parametrize("levels", [1, LEVELS])
def test_one_shared_timestep_is_the_plain_call(case: Tiny, levels: int) -> None:
    inputs, time = case.inputs(4), 0.3217 * case.unit
    call = NetworkCall(
        pixel_time(case, 2, levels), torch.full((levels,), time), Rows.cond_then_uncond(2)
    )
    plain = case(inputs, time)
    with attach(case.network, call):
        close(case(inputs, time), plain)
        if not case.reference and not case.cross:  # text keeps the host's scalar
            assert float((case(inputs, 0.9 * time) - plain).abs().max()) > 1e-3
    assert torch.equal(case(inputs, time), plain)


@pytest.mark.parametrize("told", [None, "objects"])
def test_a_field_of_timesteps_is_the_brute_force(case: Tiny, told: str | None) -> None:
    images = [0, 1, 1]
    time, table = pixel_time(case, 2), torch.linspace(0.02, 0.98, LEVELS) * case.unit
    call = NetworkCall(time, table, Rows.of(images, [0, 0, -1]))
    scalar, inputs = torch.full((3,), 0.4 * case.unit), case.inputs(3)
    text = scalar
    if told is not None:
        call.text_timestep = torch.tensor([0.21, 0.77]) * case.unit
        text = call.text_timestep[images]
    if told is not None and case.reference:
        pytest.skip("reference tokens keep the host's scalar, which the brute force does not tell")
    expected = case.by_token(case, inputs, table[time.index].flatten(1)[images], text)
    with attach(case.network, call):
        close(case(inputs, 0.4 * case.unit), expected)


def test_hooks_that_idle_change_nothing(case: Tiny) -> None:
    inputs = case.inputs(2)
    plain = case(inputs, 0.3 * case.unit)
    capture = AttentionCapture([[[[1]]]])
    with attach(case.network, NetworkCall(rows=Rows.cond_then_uncond(1)), capture):
        assert torch.equal(case(inputs, 0.3 * case.unit), plain)
        capture.read()
    assert torch.equal(case(inputs, 0.3 * case.unit), plain)
    for module in case.network.modules():
        assert not module._forward_hooks and not module._forward_pre_hooks


def test_an_image_of_a_batch_is_the_image_alone(case: Tiny) -> None:
    """Also where soft masks give every cell a timestep, and the table is cut to 256 of them."""
    table = torch.linspace(0.02, 0.98, LEVELS) * case.unit
    time, inputs = pixel_time(case, 2), case.inputs(4)
    call = NetworkCall(time, table, Rows.uncond_then_cond(2))
    with attach(case.network, call):
        together = case(inputs, 0.5 * case.unit)
        for image in range(2):
            own = PixelTime(
                time.sigma_table, time.index[[image]], time.clock_table, case.size, case.patch
            )
            call.pixel_time, call.rows = own, Rows.uncond_then_cond(1)
            alone = {name: value[[image, image + 2]] for name, value in inputs.items()}
            close(case(alone, 0.5 * case.unit), together[[image, image + 2]])


def test_soft_masks_take_at_most_256_timesteps() -> None:
    case = make("sd3")
    large = Tiny(case.network, case.call, case.by_token, size=(24, 24))
    cells, unit = 12 * 12, case.unit
    seen = []
    handle = case.network.norm_out.linear.register_forward_hook(
        lambda module, args, output: seen.append(len(args[0])), prepend=True
    )
    generator = torch.Generator().manual_seed(4)
    table = torch.rand(3 * cells, generator=generator) * unit
    index = torch.arange(3 * cells).view(3, 12, 12)
    time = PixelTime(table / unit, index, table, (24, 24), 2)
    inputs = large.inputs(3)
    most, dit.MOST_LEVELS = dit.MOST_LEVELS, 100
    try:
        call = NetworkCall(time, table, Rows.only_cond(3))
        with attach(case.network, call):
            together = large(inputs, 0.5 * unit)
            assert seen == [3 + 3 * 100]
            call.pixel_time = PixelTime(table[:cells] / unit, index[:1], table, (24, 24), 2)
            call.timestep_table, call.rows = table[:cells], Rows.only_cond(1)
            alone = large({name: value[:1] for name, value in inputs.items()}, 0.5 * unit)
            close(alone, together[:1])
        asked = table[index].flatten(1).double()
        low, high = asked.min(1, keepdim=True)[0], asked.max(1, keepdim=True)[0]
        given = low + (high - low) / 99 * ((asked - low) / (high - low) * 99).round()
        assert float(((given - asked) / (high - low)).abs().max()) <= 1 / 198 + 1e-9
        close(together, large.by_token(large, inputs, given.float(), torch.full((3,), 500.0)))
    finally:
        dit.MOST_LEVELS = most
        handle.remove()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_bit_identical_where_all_share_one_timestep(case, dtype) -> None:
    inputs = case.inputs(2, dtype=dtype)
    call = NetworkCall(pixel_time(case, 1, 1), torch.tensor([0.25 * case.unit]))
    call.rows = Rows.cond_then_uncond(1)
    case.network.to(dtype)
    try:
        plain = case(inputs, 0.25 * case.unit)
        with attach(case.network, call):
            off = (case(inputs, 0.25 * case.unit) - plain).abs().max() / plain.abs().max()
            assert float(off) <= case.half * torch.finfo(dtype).eps
            call.pixel_time = pixel_time(case, 1)
            call.timestep_table = torch.linspace(0.1, 0.9, LEVELS) * case.unit
            assert torch.isfinite(case(inputs, 0.25 * case.unit)).all()
    finally:
        case.network.float()


def joint_attention(case: Tiny, inputs: dict, time: float, text_only: bool) -> torch.Tensor:
    """[rows, pixels, tokens of text] as the network's own attention kernel was asked for it."""
    cells, first = case.tokens[0] * case.tokens[1], "SD3" not in type(case.network).__name__
    first = first and not case.more.get("behind")
    found, plain = [], torch.nn.functional.scaled_dot_product_attention
    skip = getattr(case.network, "register_length", 0)
    count = skip + TEXT + case.fill + cells + case.reference

    def seen(query, key, value, *args, **kwargs):
        if case.cross:
            if key.shape[2] == TEXT and query.shape[2] == cells:
                found.append((query @ key.mT / query.shape[-1] ** 0.5).softmax(-1).mean(1))
        elif query.shape[2] == count:
            words = slice(skip, skip + TEXT) if first else slice(count - TEXT, count)
            before = skip + TEXT + case.fill if first else 0
            pixels = slice(before, before + cells)
            logits = query @ key.transpose(-1, -2) / query.shape[-1] ** 0.5
            logits = logits[:, :, pixels]
            if text_only:
                found.append(logits[..., words].softmax(-1).mean(1))
            else:
                found.append(logits.softmax(-1)[..., words].mean(1))
        return plain(query, key, value, *args, **kwargs)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.nn.functional, "scaled_dot_product_attention", seen)
        case(inputs, time)
    return torch.stack(found).mean(0)


@pytest.mark.parametrize("softmax", ["text", "joint"])
def test_the_maps_are_the_attention_computed(case: Tiny, softmax: str) -> None:
    inputs, rows = case.inputs(3), Rows.of([1, 0, 0], [0, -1, 0])
    columns = [[[[1, 2], [5]]], [[[3], [0, 4, 8]]]]
    expected = joint_attention(case, inputs, 0.6 * case.unit, softmax == "text")
    capture = AttentionCapture(columns, softmax=softmax)
    with attach(case.network, NetworkCall(rows=rows), capture):
        case(inputs, 0.6 * case.unit)
        maps = capture.read()
    assert maps.shape == (2, 2, *case.tokens)
    for image, row in ((1, 0), (0, 2)):
        for number, words in enumerate(columns[image][0]):
            own = expected[row][:, words].mean(-1).view(case.tokens)
            assert float((maps[image, number] - own).abs().max()) < 1e-6


def test_two_text_encoders_have_one_vote_each(case: Tiny) -> None:
    """The map of each is divided by its mean: one may see ten times more of every word."""
    inputs = case.inputs(1)
    expected = joint_attention(case, inputs, 0.6 * case.unit, True)[0]
    capture = AttentionCapture([[[[[1], [6, 7]], [[2], []]]]])
    with attach(case.network, NetworkCall(rows=Rows.only_cond(1)), capture):
        case(inputs, 0.6 * case.unit)
        maps = capture.read()[0]
    each = [expected[:, words].mean(-1) for words in ([1], [6, 7], [2])]
    each = [seen / seen.mean() for seen in each]
    close(maps[0].flatten(), (each[0] + each[1]) / 2)
    close(maps[1].flatten(), each[2])


def test_rows_patches_and_tokens_that_do_not_fit_are_one_line(case: Tiny) -> None:
    time = pixel_time(case, 1)
    call = NetworkCall(time, torch.rand(LEVELS), Rows.only_cond(1))
    with attach(case.network, call):
        with pytest.raises(RowsMismatch, match="given 2 rows"):
            case(case.inputs(2), 0.5 * case.unit)
        call.rows = Rows.only_cond(2)
        with pytest.raises(RowsMismatch, match="image 1"):
            case(case.inputs(2), 0.5 * case.unit)
        call.rows = Rows.only_cond(1)
        wrong = 3 - case.patch
        call.pixel_time = PixelTime(
            time.sigma_table, time.index, time.clock_table, case.size, wrong
        )
        with pytest.raises(RowsMismatch, match="patch="):
            case(case.inputs(1), 0.5 * case.unit)


@pytest.mark.parametrize("name", [maker.__name__ for maker in DIFFUSERS])
def test_what_diffusers_fuses_or_cuts_is_one_line(name: str) -> None:
    network = make(name).network
    block = network.transformer_blocks[0]
    block._chunk_size = 2
    try:
        with pytest.raises(UnsupportedNetwork, match="disable_forward_chunking"):
            attach(network, NetworkCall())
    finally:
        block._chunk_size = None


@pytest.mark.parametrize("name", [maker.__name__ for maker in DIFFUSERS])
def test_fused_projections_are_one_line_until_they_are_unfused(name: str) -> None:
    """By the library's own functions: releases differ in what unfusing leaves behind."""
    case, time = MAKERS[name](), 300.0
    inputs = case.inputs(2)
    plain = case(inputs, time)
    case.network.fuse_qkv_projections()
    with pytest.raises(UnsupportedNetwork, match="unfuse_qkv_projections"):
        attach(case.network, NetworkCall())
    case.network.unfuse_qkv_projections()
    capture = AttentionCapture([[[[3]]]])
    call = NetworkCall(rows=Rows.cond_then_uncond(1))
    with attach(case.network, call, capture):
        close(case(inputs, time), plain)
        assert capture.read().isfinite().all()
