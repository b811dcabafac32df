"""The update rules, one step at a time."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from asyndm.core.stepping import (
    SECOND_ORDER_CAP,
    DpmPP2M,
    ancestral_split,
    euler_step,
    make_rule,
)


def tensors(seed: int, count: int):
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(2, 3, 4, 4, generator=generator) for _ in range(count)]


def maps(seed: int, count: int, low=0.01, high=10.0) -> list[torch.Tensor]:
    """Falling noise levels, pixel by pixel: [2, 1, 4, 4] each."""
    generator = torch.Generator().manual_seed(seed)
    field = torch.rand(count, 2, 1, 4, 4, generator=generator) * math.log(high / low)
    return list((field.sort(dim=0, descending=True).values + math.log(low)).exp())


@given(sigma=st.floats(0.01, 80), ratio=st.floats(0, 1), eta=st.sampled_from([0.0, 0.3, 1.0]))
def test_ancestral_split_is_k_diffusions(kdiff, sigma, ratio, eta):
    a, b = (
        torch.tensor(sigma, dtype=torch.float64),
        torch.tensor(sigma * ratio, dtype=torch.float64),
    )
    down, up = ancestral_split(a, b, eta)
    theirs = kdiff.sampling.get_ancestral_step(a, b, eta=eta)
    assert float(down) == pytest.approx(float(theirs[0]), abs=1e-6 * sigma)
    assert float(up) == pytest.approx(float(theirs[1]), abs=1e-6 * sigma)


@given(seed=st.integers(0, 1000), eta=st.floats(0, 1))
def test_every_pixel_steps_as_it_would_alone(seed, eta):
    """A map's step equals, cell by cell, the scalar step with that cell's noise levels."""
    x, denoised, noise = tensors(seed, 3)
    s, s_next = maps(seed, 2, high=0.95)
    y, c = 2, 1  # any cell
    for flow in (False, True):
        rule = make_rule("ddpm", eta=eta, flow=flow)
        out = rule.step(x, denoised, s, s_next, 1.0, 0.5, lambda: noise)
        alone = rule.step(
            x[..., y, c], denoised[..., y, c], s[..., y, c], s_next[..., y, c], 1.0, 0.5,
            lambda: noise[..., 2, 1],
        )  # fmt: skip
        assert torch.allclose(out[..., y, c], alone, atol=1e-6)


@pytest.mark.parametrize("rule", ["ddpm", "euler", "dpmpp_2m"])
@pytest.mark.parametrize("flow", [False, True])
def test_the_last_step_to_zero_is_the_denoised_prediction(rule, flow):
    x, denoised = tensors(1, 2)
    (s,) = maps(1, 1, high=0.9)
    zero = torch.zeros_like(s)
    out = make_rule(rule, flow=flow).step(x, denoised, s, zero, 0.9, 0.0, _must_not_draw)
    assert torch.allclose(out, denoised, atol=1e-5)


@pytest.mark.parametrize("flow", [False, True])
@pytest.mark.parametrize("eta", [0.0, 0.5, 1.0])
def test_ddpm_keeps_the_marginals(flow, eta):
    """From x at s and the true x0, x' has the mean and variance that belong to s'."""
    generator = torch.Generator().manual_seed(0)
    x0 = torch.full((1, 1, 300, 300), 0.7)
    old, new = (torch.randn(x0.shape, generator=generator) for _ in range(2))
    s, s_next = torch.tensor(0.9), torch.tensor(0.55)
    x = (1 - s) * x0 + s * old if flow else x0 + s * old
    out = make_rule("ddpm", eta=eta, flow=flow).step(x, x0, s, s_next, 0.9, 0.55, lambda: new)
    assert out.mean().item() == pytest.approx(0.7 * (0.45 if flow else 1), abs=0.01)
    assert out.std().item() == pytest.approx(0.55, abs=0.01)


def test_flow_ddpm_without_noise_is_euler():
    x, denoised, noise = tensors(2, 3)
    s, s_next = maps(2, 2, high=0.95)
    out = make_rule("ddpm", eta=0.0, flow=True).step(x, denoised, s, s_next, 1, 0.5, lambda: noise)
    assert torch.allclose(out, euler_step(x, denoised, s, s_next), atol=1e-3)


@pytest.mark.parametrize("rule", ["ddpm", "euler", "dpmpp_2m"])
@pytest.mark.parametrize("flow", [False, True])
def test_a_pixel_that_stands_still_stays(rule, flow):
    """The piecewise curve at k = 1: s' = s, also at a flow model's s = 1."""
    x, denoised, noise = tensors(3, 3)
    for s in (maps(3, 1, high=0.9)[0], torch.ones(2, 1, 4, 4)):
        stepper = make_rule(rule, flow=flow)
        out = stepper.step(x, denoised, s, s, 0.9, 0.8, lambda: noise)
        assert torch.allclose(out, x, atol=1e-5)
        later = stepper.step(out, denoised, s, s / 2, 0.8, 0.4, lambda: noise)
        assert torch.isfinite(later).all()


def second_order_weight(rule, x, denoised, old, s, s_next, host, host_next):
    """1 / (2r) that a step used, read back from what it did."""
    out = rule.step(x, denoised, s, s_next, host, host_next)
    ratio = s_next / s
    target = (out - ratio * x) / (1 - ratio)
    return (target - denoised) / (denoised - old)


@given(seed=st.integers(0, 10_000))
def test_dpmpp_2m_bounds_the_second_order_term(seed):
    x = torch.zeros(2, 1, 4, 4, dtype=torch.float64)
    old, denoised = x + 1, x + 2
    s0, s1, s2 = (m.double() for m in maps(seed, 3))
    rule = DpmPP2M()
    rule.step(x, old, s0, s1, 4.0, 2.0)  # the host's own list asks for exactly 0.5
    weight = second_order_weight(rule, x, denoised, old, s1, s2, 2.0, 1.0)
    free = (s1 / s2).log() / (2 * (s0 / s1).log())
    moved = 1 - s2 / s1 > 1e-3  # elsewhere the weight cannot be read back
    assert torch.allclose(weight[moved], free.clamp(max=SECOND_ORDER_CAP)[moved], atol=1e-6)


def test_dpmpp_2m_cap_follows_a_host_that_asks_for_more():
    """Long steps after short ones: k-diffusion's own weight is 1.5, and equal pixels get it."""
    hosts = [4.0, 2.0, 0.25]
    s0, s1, s2 = (torch.full((1, 1, 2, 2), s, dtype=torch.float64) for s in hosts)
    x = torch.zeros_like(s0)
    rule = DpmPP2M()
    rule.step(x, x + 1, s0, s1, hosts[0], hosts[1])
    weight = second_order_weight(rule, x, x + 2, x + 1, s1, s2, hosts[1], hosts[2])
    assert torch.allclose(weight, torch.full_like(weight, 1.5))


def test_dpmpp_2m_is_first_order_where_a_pixel_stood_still():
    x = torch.zeros(1, 1, 1, 2, dtype=torch.float64)
    s0 = torch.tensor([[[[4.0, 4.0]]]], dtype=torch.float64)
    s1 = torch.tensor([[[[4.0, 2.0]]]], dtype=torch.float64)
    s2 = torch.ones_like(s0)
    rule = DpmPP2M()
    rule.step(x, x + 1, s0, s1, 4.0, 2.0)
    weight = second_order_weight(rule, x, x + 2, x + 1, s1, s2, 2.0, 1.0)
    assert weight.flatten().tolist() == pytest.approx([0.0, 0.5])


def test_an_unknown_rule_is_refused():
    with pytest.raises(ValueError, match="rule"):
        make_rule("huen")


def _must_not_draw():
    raise AssertionError("noise was drawn where the host's twin draws none")
