"""Latents cut into patches: one noise level a token, at odd sizes and in inpainting, too."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from asyndm.core.grids import pool, tokens_of
from asyndm.core.masks import GivenMasks
from asyndm.core.parametrisation import FlowParametrisation
from asyndm.core.run import Director
from asyndm.core.schedule import PixelTime

SIZES = st.tuples(st.integers(2, 13), st.integers(2, 13))


@settings(max_examples=60, deadline=None)
@given(SIZES, st.sampled_from([1, 2, 3]), st.sampled_from(["tokens", "latents", "one", "5x7"]))
def test_a_pixel_has_the_noise_level_of_its_token(size, patch, grid) -> None:
    tokens = tokens_of(size, patch)
    gh, gw = {"tokens": tokens, "latents": size, "one": (1, 1), "5x7": (5, 7)}[grid]
    index = torch.randperm(gh * gw).view(1, gh, gw)
    table = torch.rand(gh * gw)
    time = PixelTime(table, index, table, size, patch)
    by_token, by_pixel = time.index_at(*tokens)[0], time.index_at(*size)[0]
    for y in range(size[0]):
        for x in range(size[1]):
            assert by_pixel[y, x] == by_token[y // patch, x // patch]
    assert torch.equal(time.sigma_map()[0, 0], table[by_pixel])
    if grid == "tokens":
        assert torch.equal(by_token, index[0])


@settings(max_examples=40, deadline=None)
@given(SIZES, st.sampled_from([1, 2, 3]), st.booleans(), st.booleans())
def test_pooling_is_the_extreme_of_the_patch(size, patch, lowest, binary) -> None:
    values = torch.rand(2, *size)
    values = values > 0.5 if binary else values
    pooled = pool(values, patch, lowest)
    for y in range(pooled.shape[1]):
        for x in range(pooled.shape[2]):
            part = values[:, y * patch : (y + 1) * patch, x * patch : (x + 1) * patch].flatten(1)
            expected = part.float().min(1)[0] if lowest else part.float().max(1)[0]
            assert torch.equal(pooled[:, y, x].float(), expected)
    assert pooled.dtype == values.dtype


@pytest.mark.parametrize("size", [(8, 8), (7, 9)])
@pytest.mark.parametrize("lead", [0.0, 0.5])
def test_a_token_with_a_kept_pixel_keeps_the_hosts_pace(size, lead) -> None:
    """Its repainted pixels do, too; it leads only if all of it is kept."""
    allowed = torch.zeros(size)
    allowed[2:6, 3:7] = 1  # columns 3 and 6 share their tokens with kept pixels
    everywhere = GivenMasks(torch.ones(size, dtype=torch.bool), 0.5)
    director = Director(
        FlowParametrisation(3.0), everywhere, allowed=allowed, lead=lead,
        known=torch.zeros(1, 4, *size) if lead else None, patch=2,
    )  # fmt: skip
    sigmas = torch.linspace(1, 0, 7)
    with director.run(torch.zeros(1, 4, *size), sigmas) as time:
        for i in range(3):
            time = director.advance(i, torch.zeros(1, 4, *size))
        level, host = time.sigma_map()[0, 0], sigmas[3]
    slow = torch.zeros(size, dtype=torch.bool)
    slow[2:6, 4:6] = True
    mixed = torch.zeros(size, dtype=torch.bool)
    mixed[2:6, 2:4] = mixed[2:6, 6:8] = True
    assert (level[slow] > host + 1e-3).all()
    torch.testing.assert_close(level[mixed], host.expand_as(level[mixed]))
    kept = level[~slow & ~mixed]
    assert (kept < host - 1e-3).all() if lead else torch.allclose(kept, host.expand_as(kept))


def test_the_objects_mean_timestep_is_what_text_is_told() -> None:
    mask = torch.zeros(2, 4, 4, dtype=torch.bool)
    mask[0, :2] = True
    director = Director(
        FlowParametrisation(1.0), GivenMasks(mask, 1.0), patch=2, text_timestep="objects"
    )
    sigmas, x = torch.linspace(1, 0, 7), torch.zeros(2, 4, 8, 8)
    with director.run(x, sigmas):
        assert director.call.text_timestep is None  # all pixels share the host's
        for i in range(3):
            time = director.advance(i, x)
        level = time.sigma_map()[:, 0].double() * 1000
        told = director.call.text_timestep.double()
        torch.testing.assert_close(told[0], level[0, :4].mean(), rtol=1e-6, atol=1e-4)
        torch.testing.assert_close(told[1], level[1].mean(), rtol=1e-6, atol=1e-4)  # no object
        assert told[0] > told[1] + 10
    assert director.call.text_timestep is None
