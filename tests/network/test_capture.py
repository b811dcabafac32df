"""Reading cross-attention without owning it."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch
from networks import TOKENS, Case, diffusers_unet, ldm_unet

from asyndm.core.masks import binary_masks
from asyndm.core.rows import Rows
from asyndm.core.run import NetworkCall
from asyndm.network import (
    AttentionCapture,
    RowsMismatch,
    UnsupportedNetwork,
    attach,
    grid_for,
    pile,
)

WORDS = [[2], [3, 4], []]  # positions of three objects; the third is not in this prompt
COLUMNS = [[WORDS], [WORDS]]


class Watched:
    """The explicit softmax of every attn2, written into ``seen`` as (h, w, shares)."""

    def __init__(self, case: Case) -> None:
        self.case, self.seen = case, []

    def __enter__(self) -> list:
        self.undo = []
        for module in self.case.unet.modules():
            for block in getattr(module, "transformer_blocks", None) or ():
                attention, forward = block.attn2, block.attn2.forward
                attention.forward = self._explicit(attention, module)
                self.undo.append((attention, forward))
        return self.seen

    def __exit__(self, *_) -> None:
        for attention, _forward in self.undo:
            del attention.forward

    def _explicit(self, attention, transformer):
        def forward(x, context=None, encoder_hidden_states=None, **_):
            context = encoder_hidden_states if context is None else context
            q, k, v = attention.to_q(x), attention.to_k(context), attention.to_v(context)
            width = q.shape[-1] // attention.heads
            outputs, shares = [], []
            for head in range(attention.heads):
                part = slice(head * width, (head + 1) * width)
                logits = torch.einsum("bpd,btd->bpt", q[..., part].double(), k[..., part].double())
                share = torch.exp(logits / width**0.5)
                share = share / share.sum(-1, keepdim=True)
                outputs.append(share.float() @ v[..., part])
                shares.append(share.float())
            self.seen.append(torch.stack(shares, dim=1))  # [rows, heads, pixels, tokens]
            out = torch.cat(outputs, dim=-1)
            for layer in attention.to_out:
                out = layer(out)
            return out

        return forward


def expected(seen: list, rows: Rows, grid: tuple[int, int]) -> torch.Tensor:
    """Mean over heads, layers and parts by plain loops; NaN where an object has no token."""
    layers = [shares for shares in seen if shares.shape[2] == grid[0] * grid[1]]
    assert layers
    maps = torch.full((2, 3, *grid), torch.nan)
    for image in range(2):
        for number, tokens in enumerate(WORDS):
            values = [
                shares[row, head, :, tokens].mean(-1).view(grid)
                for shares in layers
                for row in range(len(rows))
                if rows.images[row] == image and rows.parts[row] >= 0
                for head in range(shares.shape[1])
                if tokens
            ]
            if values:
                maps[image, number] = torch.stack(values).mean(0)
    return maps


def test_maps_are_the_explicit_softmax(case: Case) -> None:
    """At the real height and width; none of these latents is square."""
    inputs = case.inputs(4)
    rows = Rows.uncond_then_cond(2)
    with Watched(case) as seen:
        case(inputs, 300.0)
    for grid in available(case):
        capture = AttentionCapture(COLUMNS, grid=grid)
        with attach(case.unet, NetworkCall(rows=rows), capture):
            case(inputs, 300.0)
        maps = capture.read()
        torch.testing.assert_close(maps, expected(seen, rows, grid), equal_nan=True)
        assert maps.dtype == torch.float32


@pytest.mark.parametrize("logits", [1, 3 * 4 * 2 * 2 * 16 * TOKENS, 2**30], ids=["1", "3", "all"])
def test_layers_read_together_are_the_layers_read_alone(monkeypatch, logits) -> None:
    """However many fit; what a host does to its queries afterwards is not seen."""
    torch.manual_seed(0)
    layers = [(torch.randn(4, 16, 32), torch.randn(4, TOKENS, 32)) for _ in range(8)]
    rows = Rows.cond_then_uncond(2)
    alone = torch.zeros(2, 3, 4, 4)
    for q, k in layers:
        capture = AttentionCapture(COLUMNS)
        capture.record(q.clone(), k.clone(), 2, 4, 4, rows)
        alone += capture.read() / len(layers)
    monkeypatch.setattr(pile, "LOGITS_BYTES", logits)
    capture = AttentionCapture(COLUMNS)
    capture._left = len(layers)
    for q, k in layers:
        capture.record(q, k, 2, 4, 4, rows)
        q *= 0.1
        k.zero_()
    torch.testing.assert_close(capture.read(), alone, equal_nan=True)


def test_nothing_stays_aside_when_the_level_is_over(small: Case) -> None:
    capture = AttentionCapture(COLUMNS)
    with attach(small.unet, NetworkCall(rows=Rows.cond_then_uncond(2)), capture):
        small(small.inputs(4), 300.0)
        assert capture._pile is None and capture._sum is not None


def test_maps_are_float32_where_the_host_autocasts() -> None:
    """Hosts run the network under autocast; a softmax in half precision loses faint words."""
    torch.manual_seed(0)
    q, k = torch.randn(2, 16, 32) * 3, torch.randn(2, TOKENS, 32) * 3
    rows = Rows.only_cond(2)
    maps = []
    for enabled in (False, True):
        capture = AttentionCapture(COLUMNS)
        with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            capture.record(q, k, 4, 4, 4, rows)
            maps.append(capture.read())
    torch.testing.assert_close(*maps, rtol=0, atol=0, equal_nan=True)


def test_maps_on_a_device_without_autocast() -> None:
    q, k = torch.randn(2, 16, 32, device="meta"), torch.randn(2, TOKENS, 32, device="meta")
    capture = AttentionCapture(COLUMNS)
    capture.record(q, k, 4, 4, 4, Rows.only_cond(2, device="meta"))
    assert capture.read().shape == (2, 3, 4, 4)


def available(case: Case) -> list[tuple[int, int]]:
    """Grids of the case's cross-attention, from the inputs its spatial blocks really get."""
    grids, handles = set(), []
    for module in case.unet.modules():
        if hasattr(module, "transformer_blocks"):
            handles.append(
                module.register_forward_pre_hook(
                    lambda m, args: grids.add(tuple(args[0].shape[-2:]))
                )
            )
    case(case.inputs(1), 1.0)
    for handle in handles:
        handle.remove()
    return sorted(grids)


def test_the_default_grid_is_settled_before_and_during_a_forward(case: Case) -> None:
    rows = Rows.only_cond(2)
    ahead = AttentionCapture(COLUMNS)
    assert ahead.grid is None
    with attach(case.unet, NetworkCall(rows=rows), ahead):
        settled = ahead.settle(case.size)
    during = AttentionCapture(COLUMNS)
    with attach(case.unet, NetworkCall(rows=rows), during):
        case(case.inputs(2), 300.0)
    assert during.grid == settled == grid_for(*case.size, available(case))
    assert during.read().shape == (2, 3, *settled)


@pytest.mark.parametrize(
    ("size", "grids", "grid"),
    [
        ((64, 64), [(64, 64), (32, 32), (16, 16), (8, 8)], (16, 16)),  # the paper's, SD1 and SD2
        ((64, 96), [(64, 96), (32, 48), (16, 24), (8, 12)], (16, 24)),
        ((128, 128), [(64, 64), (32, 32)], (32, 32)),  # SDXL
        ((96, 160), [(48, 80), (24, 40), (12, 20)], (24, 40)),
        ((63, 65), [(63, 65), (32, 33), (16, 17), (8, 9)], (16, 17)),
        ((64, 64), [(32, 32), (8, 8)], (32, 32)),  # no quarter, both as far from 16: the finer
        ((16, 16), [(16, 16), (8, 8)], (16, 16)),  # a small model: 4x4 would say nothing
        ((32, 32), [(32, 32), (16, 16), (8, 8)], (16, 16)),
    ],
)
def test_grid_for(size, grids, grid) -> None:
    assert grid_for(*size, grids) == grid
    assert grid_for(*size, reversed(grids)) == grid


def test_no_cross_attention_is_said() -> None:
    with pytest.raises(UnsupportedNetwork, match="no cross-attention"):
        grid_for(64, 64, [])
    unet = ldm_unet(attention_resolutions=[], use_spatial_transformer=True)
    unet.middle_block[1] = torch.nn.Identity()
    with pytest.raises(UnsupportedNetwork, match="no cross-attention"):
        attach(unet, NetworkCall(), AttentionCapture(COLUMNS))


def test_and_parts_split_calls_and_missing_uncond(small: Case) -> None:
    """Parts are averaged, whatever calls they come in, and each part has its own positions."""
    first, second = [[2], [], [5]], [[], [3], [6, 7]]
    columns = [[first, second], [first]]
    rows = Rows.cond_then_uncond(2, [2, 1])
    inputs = small.inputs(5)
    capture = AttentionCapture(columns)
    call = NetworkCall(rows=rows)
    with attach(small.unet, call, capture):
        small(inputs, 300.0)
        whole = capture.read()
        for part in (slice(4, 5), slice(0, 1), slice(1, 3)):
            call.rows = rows[part]
            small({name: value[part] for name, value in inputs.items()}, 300.0)
        torch.testing.assert_close(capture.read(), whole, equal_nan=True)
        # A scattered choice of rows: conditional ones that do not lie side by side.
        order = [0, 3, 1, 4, 2]
        call.rows = Rows.of([rows.images[i] for i in order], [rows.parts[i] for i in order])
        small({name: value[order] for name, value in inputs.items()}, 300.0)
        torch.testing.assert_close(capture.read(), whole, equal_nan=True)
    assert torch.isfinite(whole[0]).all()
    assert torch.isnan(whole[1, 1]).all()


def test_an_absent_object_has_no_mask(small: Case) -> None:
    capture = AttentionCapture(COLUMNS)
    with attach(small.unet, NetworkCall(rows=Rows.only_cond(2)), capture):
        small(small.inputs(2), 300.0)
    masks = binary_masks(capture.read())
    assert not masks[:, 2].any()
    assert masks[:, :2].any()


def test_reading_starts_afresh_and_nothing_read_is_said(small: Case) -> None:
    capture = AttentionCapture(COLUMNS)
    call = NetworkCall(rows=Rows.only_cond(2))
    with attach(small.unet, call, capture):
        small(small.inputs(2), 300.0)
        first = capture.read()
        with pytest.raises(RuntimeError, match="No cross-attention was seen"):
            capture.read()
        small(small.inputs(2, seed=5), 300.0)
        assert not torch.equal(capture.read().nan_to_num(), first.nan_to_num())
        small(small.inputs(2), 300.0)
        torch.testing.assert_close(capture.read(), first, equal_nan=True)
        call.rows = Rows.of([0, 1], [-1, -1])
        small(small.inputs(2), 300.0)
        with pytest.raises(RuntimeError, match="No cross-attention was seen"):
            capture.read()


def stored(value, seen: set[int]) -> int:
    """Bytes of the tensors an object holds."""
    if id(value) in seen or isinstance(value, torch.nn.Module):
        return 0
    seen.add(id(value))
    if isinstance(value, torch.Tensor):
        return value.untyped_storage().nbytes()
    if isinstance(value, dict):
        return sum(stored(v, seen) for v in value.values())
    if isinstance(value, (list, tuple, set)):
        return sum(stored(v, seen) for v in value)
    return sum(stored(v, seen) for v in vars(value).values()) if hasattr(value, "__dict__") else 0


def test_memory_does_not_grow_with_the_steps(small: Case) -> None:
    capture = AttentionCapture(COLUMNS)
    sizes = []
    with attach(small.unet, NetworkCall(rows=Rows.cond_then_uncond(2)), capture):
        for step in range(6):
            small(small.inputs(4), 300.0)
            sizes.append(stored(capture, set()))
            if step > 2:  # whether the maps are read or not
                capture.read()
    counts = 4 * capture.batch * capture.objects  # bytes, from the first reading on
    assert max(sizes[:4]) == sizes[0] > 0
    assert max(sizes) == sizes[0] + counts
    assert not capture._pending


def test_a_refiner_keeps_the_grid_of_the_run() -> None:
    from networks import ldm_sd1, ldm_sdxl

    capture = AttentionCapture(COLUMNS)
    call = NetworkCall(rows=Rows.only_cond(2))
    for number, case in enumerate((ldm_sdxl(), ldm_sd1())):
        case.size = (16, 16)
        with attach(case.unet, call, capture):
            case(case.inputs(2), 300.0)
        assert capture.read().shape[-2:] == capture.grid, number


def test_words_that_cannot_be_found_are_one_clear_error(small: Case) -> None:
    call = NetworkCall(rows=Rows.only_cond(2))
    far = AttentionCapture([[[[TOKENS]]], [[[1]]]])
    with attach(small.unet, call, far), pytest.raises(IndexError, match=f"position .{TOKENS}."):
        small(small.inputs(2), 300.0)
    few = AttentionCapture([[[[1]]]])
    with attach(small.unet, call, few), pytest.raises(RowsMismatch, match="part 0 of image 1"):
        small(small.inputs(2), 300.0)
    with pytest.raises(ValueError, match="same objects"):
        AttentionCapture([[[[1]]], [[[1], [2]]]])


def test_prompt_editing_aims_the_same_objects_at_other_tokens() -> None:
    q, k = torch.randn(1, 16, 32), torch.randn(1, TOKENS, 32)
    rows = Rows.only_cond(1)
    maps = {}
    for first, then in (([2], [2]), ([5], [5]), ([2], [5])):
        capture = AttentionCapture([[[first]]])
        capture.record(q, k, 4, 4, 4, rows)
        before = capture.read()
        capture.aim([[[then]]])
        capture.record(q, k, 4, 4, 4, rows)
        maps[first[0], then[0]] = (before, capture.read())
    assert torch.equal(maps[2, 5][0], maps[2, 2][0])
    assert torch.equal(maps[2, 5][1], maps[5, 5][1])
    assert not torch.equal(maps[2, 5][0], maps[2, 5][1])
    with pytest.raises(ValueError, match="same objects"):
        capture.aim([[[[1], [2]]]])


def test_merged_tokens_are_refused() -> None:
    capture = AttentionCapture(COLUMNS, grid=(4, 4))
    with pytest.raises(UnsupportedNetwork, match="12 tokens on a 4x4 grid"):
        capture.record(torch.zeros(2, 12, 8), torch.zeros(2, TOKENS, 8), 2, 4, 4, Rows.only_cond(2))


@pytest.mark.parametrize("queries, keys", [(4, 4), (2, 4), (1, 1)])
def test_rows_that_a_regional_prompter_adds_are_refused(queries: int, keys: int) -> None:
    """Attention patches that repeat rows for regions would have masks read from the wrong ones."""
    capture = AttentionCapture(COLUMNS, grid=(4, 4))
    q, k = torch.zeros(queries, 16, 8), torch.zeros(keys, TOKENS, 8)
    with pytest.raises(UnsupportedNetwork, match="rows for the 2 of the network"):
        capture.record(q, k, 2, 4, 4, Rows.only_cond(2))


def test_attention_that_hides_words_is_refused() -> None:
    unet = diffusers_unet()
    x, context = torch.zeros(2, 4, 16, 16), torch.zeros(2, TOKENS, 24)
    mask = torch.ones(2, TOKENS, dtype=torch.bool)
    call = NetworkCall(rows=Rows.only_cond(2))
    refused = pytest.raises(UnsupportedNetwork, match="encoder_attention_mask")
    with attach(unet, call, AttentionCapture(COLUMNS)), torch.no_grad(), refused:
        unet(x, 1, context, encoder_attention_mask=mask)
    with attach(unet, call), torch.no_grad():
        unet(x, 1, context, encoder_attention_mask=mask)


def test_this_package_imports_no_network_library() -> None:
    import subprocess

    code = (
        "import sys, asyndm.network, asyndm.bench.naive; "
        "print([m for m in ('ldm', 'sgm', 'diffusers', 'modules', 'gradio') if m in sys.modules])"
    )
    root = Path(__file__).parents[2]
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"


def test_a_second_call_inside_a_step_is_not_read(small: Case) -> None:
    """Rules with two network calls a step: the maps are those of the first alone."""
    capture, call = AttentionCapture(COLUMNS), NetworkCall(rows=Rows.only_cond(2))
    with attach(small.unet, call, capture):
        small(small.inputs(2), 300.0)
        first = capture.read()
        small(small.inputs(2), 300.0)
        call.reading = False
        small(small.inputs(2), 700.0)
        call.reading = True
        torch.testing.assert_close(capture.read(), first, equal_nan=True)
        call.reading = False
        small(small.inputs(2), 300.0)
        with pytest.raises(RuntimeError, match="No cross-attention"):
            capture.read()
