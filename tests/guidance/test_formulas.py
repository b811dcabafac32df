"""The methods' formulas against identities, closed forms and plain loops."""

from __future__ import annotations

import math

import pytest
import torch

from asyndm.core.rules import make_rule
from asyndm.core.settings import Settings, SettingsError
from asyndm.guidance import METHODS, Guess, methods
from asyndm.guidance.apg import Apg
from asyndm.guidance.cfg import Interval
from asyndm.guidance.cfgpp import ByWeight, renoising_rule, weight_of
from asyndm.guidance.measure import Effective
from asyndm.guidance.pag import Pag
from asyndm.guidance.scfg import SCfg
from asyndm.network.regions import Regions

SHAPE = (2, 4, 6, 10)


def draw(seed: int, *shape: int) -> torch.Tensor:
    return torch.randn(*(shape or SHAPE), generator=torch.Generator().manual_seed(seed))


def regions(seed: int, grid=(3, 5), tokens: int = 4) -> Regions:
    maps = [draw(seed + j, tokens + 2, *grid).abs() for j in range(SHAPE[0])]
    return Regions(
        {j: m[:tokens] for j, m in enumerate(maps)}, {j: m[tokens:] for j, m in enumerate(maps)}
    )


def guess(w=5.0, sigma=2.0, **more) -> Guess:
    cond, uncond = draw(1), draw(2)
    levels = torch.full((SHAPE[0], 1, *SHAPE[2:]), sigma) if isinstance(sigma, float) else sigma
    return Guess(cond, uncond, levels, w, perturbed=draw(3), regions=regions(4), **more)


def plain(g: Guess) -> torch.Tensor:
    return g.uncond + g.scale * (g.cond - g.uncond)


NEUTRAL = {
    "cfg": {},
    "seg": {"perturbed_scale": 0},
    "pag": {"perturbed_scale": 0},
    "tpg": {"perturbed_scale": 0},
    "apg": {"apg_eta": 1, "apg_momentum": 0, "apg_norm": 0},
}


@pytest.mark.parametrize("name", NEUTRAL)
def test_a_method_without_strength_is_cfg(name):
    method = METHODS[name](Settings(**NEUTRAL[name]))
    torch.testing.assert_close(method.combine(guess()), plain(guess()), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("name", METHODS)
def test_without_the_unconditional_rows_the_prompts_prediction_is_taken(name):
    """NGMS, skipped early CFG, CFG 1: what a perturbation adds is added all the same."""
    method = METHODS[name](Settings())
    method.begin([3.0, 2.0, 0.0])
    g = Guess(draw(1), None, torch.ones(2, 1, 6, 10), 5.0, perturbed=draw(3))
    more = 3 * (g.cond - g.perturbed) if name in ("seg", "pag", "tpg") else 0
    torch.testing.assert_close(method.combine(g), g.cond + more)


@pytest.mark.parametrize("name", METHODS)
def test_where_the_prompt_changes_nothing_no_method_does(name):
    method = METHODS[name](Settings())
    method.begin([3.0, 2.0, 0.0])
    same = draw(1)
    g = Guess(same, same, torch.ones(2, 1, 6, 10), 5.0, perturbed=same, regions=regions(4))
    torch.testing.assert_close(method.combine(g), same)


@pytest.mark.parametrize("name", METHODS)
def test_as_the_noise_vanishes_no_method_leaves_what_numbers_can_say(name):
    method = METHODS[name](Settings())
    method.begin([3.0, 2.0, 0.0])
    assert torch.isfinite(method.combine(guess(sigma=1e-6))).all()


def test_seg_and_pag_push_away_from_the_third_prediction():
    g = guess()
    torch.testing.assert_close(Pag(3.0).combine(g), plain(g) + 3 * (g.cond - g.perturbed))
    # As written for the noise: eps = eps_c + (w - 1)(eps_c - eps_u) + g (eps_c - eps_p).
    x = draw(9)
    c, u, p = ((x - d) / g.sigma for d in (g.cond, g.uncond, g.perturbed))
    eps = c + 4 * (c - u) + 3 * (c - p)
    torch.testing.assert_close(Pag(3.0).combine(g), x - g.sigma * eps, atol=1e-4, rtol=1e-4)


def test_the_interval_is_each_pixels_own():
    sigma = torch.linspace(0.1, 8, 60).view(1, 1, 6, 10).repeat(2, 1, 1, 1)
    interval = Interval(0.5, 4.0)
    active = interval.active(sigma)
    assert torch.equal(active, ((sigma > 0.5) & (sigma <= 4)).float())
    g = guess(w=interval.scale(5.0, active), sigma=sigma, active=active)
    made = Pag(3.0).combine(g)
    inside = Pag(3.0).combine(guess(sigma=sigma))
    torch.testing.assert_close(made, torch.where(active > 0, inside, g.cond))
    assert not Interval().limits and Interval().holds(0.01) and Interval().holds(900)
    assert [Interval(0.5, 4.0).holds(s) for s in (0.5, 0.6, 4.0, 4.1)] == [False, True, True, False]


# --- S-CFG ---


def rates_by_loops(delta, maps: Regions, w: float) -> torch.Tensor:
    """S-CFG's rates pixel by pixel, from what the network says and the maps it showed."""
    batch, _, height, width = delta.shape
    rates = torch.ones(batch, height, width)
    for j in range(batch):
        words, free = maps.words[j], maps.free[j]
        gh, gw = words.shape[-2:]
        norm, region, front = {}, {}, {}
        for y in range(height):
            for x in range(width):
                at = (int((y + 0.5) * gh / height), int((x + 0.5) * gw / width))
                norm[y, x] = math.sqrt(sum(float(v) ** 2 for v in delta[j, :, y, x]))
                region[y, x] = max(range(len(words)), key=lambda t, at=at: float(words[t][at]))
                front[y, x] = not float(free[0][at]) > float(free[1][at])
        inside = [norm[p] for p in norm if front[p]]
        if not inside:
            continue
        for y, x in norm:
            same = [norm[p] for p in norm if region[p] == region[y, x]]
            rate = (sum(inside) / len(inside)) / (sum(same) / len(same))
            rates[j, y, x] = min(min(max(rate, 0.8), 3.0), 15 / w)
    padded = torch.nn.functional.pad(rates[:, None], (1, 1, 1, 1), mode="reflect")
    side = math.exp(-1) / (1 + 2 * math.exp(-1))
    taps = torch.tensor([side, 1 - 2 * side, side])
    kernel = (taps[:, None] * taps[None, :])[None, None]
    return torch.nn.functional.conv2d(padded, kernel)


@pytest.mark.parametrize("w", [5.0, 12.0])
def test_s_cfg_is_its_rule_pixel_by_pixel(w):
    uneven = torch.linspace(0.1, 6, 10)
    words = {j: maps + 5 * torch.eye(4, 5)[:, None] for j, maps in regions(4).words.items()}
    maps = Regions(words, regions(4).free)  # a region a column, so that both clamps act
    levels = torch.full((2, 1, 6, 10), 2.0)
    g = Guess(draw(2) + draw(1) * uneven, draw(2), levels, w, regions=maps)
    rate = rates_by_loops(g.delta / 2.0, maps, w)
    assert rate.min() == pytest.approx(0.8) and rate.max() == pytest.approx(min(3, 15 / w))
    torch.testing.assert_close(SCfg().rate(g), rate, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(SCfg().combine(g), g.uncond + w * rate * g.delta)


@pytest.mark.parametrize("velocity", [False, True])
def test_s_cfg_measures_what_the_network_says_and_not_the_clock(velocity):
    """The same network output at another noise level in half of the picture: the same rates."""
    sigma = torch.ones(2, 1, 6, 10)
    sigma[..., 5:] = 6.0
    said = draw(5)  # eps or v, prompt minus none
    change = sigma / (1 + sigma**2).sqrt() if velocity else sigma
    rates = []
    for levels, factor in ((sigma, change), (torch.ones_like(sigma), change[..., :1])):
        uncond = draw(2)
        cond = uncond - factor * said
        g = Guess(cond, uncond, levels, 5.0, velocity=velocity, regions=regions(4))
        rates.append(SCfg().rate(g))
    torch.testing.assert_close(*rates, atol=1e-4, rtol=1e-4)


def test_s_cfg_with_an_even_norm_is_cfg():
    """Every region changes as much as the foreground: nothing is to be balanced."""
    g = guess()
    even = Guess(g.uncond + torch.ones(SHAPE), g.uncond, g.sigma, 5.0, regions=g.regions)
    torch.testing.assert_close(SCfg().combine(even), plain(even))


# --- APG ---


def test_apg_keeps_what_is_orthogonal():
    g = guess(w=4.0)
    update = Apg(0.0, 0.0, 0.0).combine(g) - g.cond
    along = (update * g.cond).flatten(1).sum(1) / g.cond.flatten(1).norm(dim=1)
    assert along.abs().max() < 1e-3 and update.norm() > 1


def test_apg_remembers_with_its_momentum_and_bounds_the_norm():
    g = guess(w=2.0)
    apg = Apg(1.0, -0.5, 0.0)
    first, second, third = (apg.combine(g) - g.cond for _ in range(3))
    torch.testing.assert_close(first, g.delta, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(second, g.delta * 0.5, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(third, g.delta * 0.75, atol=1e-5, rtol=1e-5)
    apg.begin([1.0, 0.0])
    torch.testing.assert_close(apg.combine(g) - g.cond, g.delta, atol=1e-5, rtol=1e-5)
    bounded = Apg(1.0, 0.0, 2.5).combine(g) - g.cond
    torch.testing.assert_close(bounded.flatten(1).norm(dim=1), torch.full((2,), 2.5))


# --- CFG++ ---


def ramp(low: float, high: float) -> torch.Tensor:
    return torch.linspace(low, high, 120).view(2, 1, 6, 10)


LEVELS = {"even": (ramp(0.9, 0.9), ramp(0.6, 0.6)), "maps": (ramp(0.5, 0.95), ramp(0.1, 0.9))}


@pytest.mark.parametrize("levels", LEVELS)
@pytest.mark.parametrize("flow", [False, True])
@pytest.mark.parametrize("rule,eta", [("euler", None), ("ddpm", 1.0), ("ddpm", 0.4), ("ddpm", 0.0)])
def test_cfgpp_is_cfg_of_another_weight_at_every_pixel(rule, eta, flow, levels):
    """In double precision; the host's list only says that noise is drawn."""
    sigma, after = (each.double() for each in LEVELS[levels])
    x, cond, uncond, noise = (draw(seed).double() for seed in range(4))
    told: list = []
    renoised = renoising_rule(rule, 0.6, told.append, flow, eta=eta)
    renoised.uncond = uncond
    d = uncond + 0.6 * (cond - uncond)
    made = renoised.step(x, d, sigma, after, 0.9, 0.6, lambda: noise)
    plain = make_rule(rule, eta=eta, flow=flow)
    guided = uncond + told[0] * (cond - uncond)
    torch.testing.assert_close(made, plain.step(x, guided, sigma, after, 0.9, 0.6, lambda: noise))
    # The weight itself, from where the step leads without its noise.
    down = after * (1 + (eta or 0) * (after / sigma - 1)) if flow and rule == "ddpm" else after
    if not flow and eta:
        kept = (1 - (after / sigma) ** 2).sqrt() * after * eta
        down = (after**2 - kept**2).sqrt()
    want = 0.6 * ((1 - down) if flow else 1) / (1 - down / sigma)
    torch.testing.assert_close(told[0], want)


@pytest.mark.parametrize("rule", ["euler", "ddpm", "ddim", "dpmpp_2m"])
def test_cfgpp_of_lambda_0_samples_without_the_prompt(rule):
    sigmas = [2.0, 1.5, 0.7, 0.2, 0.0]
    noise = draw(7)
    renoised = renoising_rule(rule, 0.0, None, eta=None)
    plain = make_rule(rule)
    one = other = draw(0)
    for i, (a, b) in enumerate(zip(sigmas, sigmas[1:])):
        at, to = torch.full((2, 1, 6, 10), a), torch.full((2, 1, 6, 10), b)
        renoised.uncond = draw(20 + i)
        one = renoised.step(one, draw(20 + i), at, to, a, b, lambda: noise)
        other = plain.step(other, draw(20 + i), at, to, a, b, lambda: noise)
    torch.testing.assert_close(one, other)


def test_cfgpp_of_dpmpp_2m_is_its_recurrence():
    """Written out with numbers: the first and the last step of first order."""
    sigmas = [10.0, 5.0, 2.0, 1.0, 0.0]
    rule = renoising_rule("dpmpp_2m", 0.6, None)
    x = want = torch.tensor(3.0).view(1, 1, 1, 1)
    before = last_h = None
    for i, (a, b) in enumerate(zip(sigmas, sigmas[1:])):
        uncond, cond = 0.3 * i - 0.2, 0.7 - 0.1 * i
        rho = b / a
        second = 0.0
        if before is not None and b > 0:
            second = math.log(a / b) / last_h / 2
        old = uncond if before is None else before
        want = (
            rho * want
            + (1 - rho) * (uncond + second * (uncond - old))
            + 0.6 * (cond - uncond) * (1 + second * (1 - rho))
        )
        before, last_h = uncond, math.log(a / b) if b > 0 else None
        at, to, u, c = (torch.tensor(v).view(1, 1, 1, 1) for v in (a, b, uncond, cond))
        rule.uncond = u
        x = rule.step(x, u + 0.6 * (c - u), at, to, a, b)
        torch.testing.assert_close(x, want)


def test_a_pixel_that_stands_still_drifts_by_lambda_delta_in_the_exact_form_alone():
    still = torch.full((2, 1, 6, 10), 2.0)
    x, cond, uncond = draw(0), draw(1), draw(2)
    rule = renoising_rule("euler", 0.6, None)
    rule.uncond = uncond
    made = rule.step(x, uncond + 0.6 * (cond - uncond), still, still, 3.0, 2.0)
    torch.testing.assert_close(made, x + 0.6 * (cond - uncond))
    weight = ByWeight(0.6)
    weight.begin([3.0, 2.0, 0.0])
    guided = weight.combine(Guess(cond, uncond, still, 9.0))
    torch.testing.assert_close(guided, uncond + 1.8 * (cond - uncond))  # .6 / (1 - 2/3)
    torch.testing.assert_close(make_rule("euler").step(x, guided, still, still, 3.0, 2.0), x)


def test_the_weight_of_a_step_that_leads_nowhere_is_no_infinity():
    weight = ByWeight(0.6)
    weight.begin([2.0, 2.0, 0.0])
    assert weight.weight(0) == 1.0 and weight.weight(1) == pytest.approx(0.6)
    assert float(weight_of(0.6, torch.tensor(0.9), torch.tensor(0.3), True)) == pytest.approx(0.63)


@pytest.mark.parametrize("flow", [False, True])
def test_samplers_without_a_form_of_cfgpp_say_what_to_choose(flow):
    with pytest.raises(SettingsError, match="choose cfg[+][+]w"):
        renoising_rule("dpmpp_2m" if flow else "heun", 0.6, None, flow)


# --- what is measured, and what excludes what ---


def test_the_effective_guidance_of_cfg_is_its_w():
    effective = Effective()
    for seed in range(3):
        cond, uncond = draw(seed), draw(seed + 10)
        sigma = torch.linspace(0.1, 5, 120).view(2, 1, 6, 10)
        effective.add(uncond + 7 * (cond - uncond), cond, uncond, sigma)
    assert effective.values(2) == pytest.approx([7, 7], rel=1e-5)
    assert Effective().values(2) == [None, None]


def test_the_effective_guidance_of_a_weight_leaves_out_pixels_that_stand_still():
    effective = Effective()
    weight = torch.full((2, 1, 6, 10), 3.0)
    weight[..., 4:] = math.inf
    effective.keep(draw(0), draw(1), torch.ones(2, 1, 6, 10))
    effective.weigh(weight)
    assert effective.values(2) == pytest.approx([3, 3])


@pytest.mark.parametrize("name", ["cfg++", "cfg++w", "apg"])
def test_what_cannot_zigzag_says_so_in_one_line(name):
    with pytest.raises(SettingsError, match=f"^zigzag: .*{name.replace('+', '[+]')}[^\n]*$"):
        methods.check(Settings(guidance=name, zigzag=0.5))


@pytest.mark.parametrize("name", ["cfg++", "cfg++w"])
def test_cfgpp_has_no_interval(name):
    with pytest.raises(SettingsError, match="^interval: "):
        methods.check(Settings(guidance=name, interval_high=5))


def test_an_interval_without_inside_is_refused():
    with pytest.raises(SettingsError, match="^interval_low: 3 is not below interval_high"):
        methods.check(Settings(interval_low=3, interval_high=2))


def test_strengths_of_another_method_are_said():
    lines = methods.idle(Settings(guidance="pag", seg_blur=2, apg_eta=0.5, zigzag_up=1))
    assert [line.split(":")[0] for line in lines] == ["seg_blur", "apg_eta", "zigzag_up"]
    assert not methods.idle(Settings(guidance="seg", perturbed_scale=2, seg_blur=2))


def test_what_guides():
    assert not methods.guides(Settings())
    for name in METHODS:
        assert methods.guides(Settings(guidance=name)) == (name != "cfg")
    assert methods.guides(Settings(zigzag=0.1)) and methods.guides(Settings(interval_high=3))
    assert not methods.guides(Settings(**methods.PLAIN))
