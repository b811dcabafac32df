"""Every rule at its limits: no curvature, ever more steps, ever more images."""

from __future__ import annotations

import math

import pytest
import torch
from core_toys import PARAMETRISATIONS, ToyDenoiser, alphas_cumprod, random_masks
from rule_oracles import CHURNED, FUNCTIONS, twin

from asyndm.core import sampling
from asyndm.core.masks import CallableMasks
from asyndm.core.parametrisation import LcmParametrisation
from asyndm.core.rules import REGISTRY, unipc
from asyndm.core.run import Director
from asyndm.core.sampling import sample_asyndm, seeded_noise
from asyndm.core.sigmas import make_sigmas

EPS = PARAMETRISATIONS["eps"]
STEPS = 8
SDE = {
    **dict.fromkeys(("ddpm", "ddpm_vp", "dpm_2_a", "dpmpp_2s_a", "dpmpp_sde"), {}),
    **dict.fromkeys(("dpmpp_2m_sde", "dpmpp_3m_sde", "er_sde"), {}),
    **dict.fromkeys(("seeds_2", "seeds_3", "res_multistep_a"), {}),
    **dict.fromkeys(("sa_solver", "sa_solver_pece"), {}),
    "ddim": {"eta": 0.7},
}


def host_list(name: str, steps: int) -> torch.Tensor:
    """The schedules of the hosts, written down from their definitions."""
    table = EPS.sigmas.float()
    if name in ("karras", "exponential", "kl_optimal"):
        return make_sigmas(name, steps, EPS)
    if name == "simple":  # every (T / n)-th trained level from the top
        rows = [len(table) - 1 - int(i * len(table) / steps) for i in range(steps)]
        sigmas = table[rows]
    elif name == "sgm_uniform":  # even timesteps, the lowest left out
        rows = torch.linspace(len(table) - 1, 0, steps + 1, dtype=torch.float64)[:-1]
        sigmas = EPS.sigma(rows).float()
    else:  # beta: timesteps at quantiles of Beta(0.6, 0.6), Lee et al. 2024 (arXiv 2407.12173)
        beta = pytest.importorskip("scipy.stats").beta
        quantiles = beta.ppf(1 - torch.linspace(0, 1, steps + 1)[:-1].double().numpy(), 0.6, 0.6)
        sigmas = table[torch.from_numpy(quantiles * (len(table) - 1)).round().long()]
    return torch.cat([sigmas, torch.zeros(1)])


SCHEDULES = ("karras", "exponential", "simple", "sgm_uniform", "beta", "kl_optimal")


@pytest.mark.parametrize("kind", ["eps", "v"])
@pytest.mark.parametrize("name", SCHEDULES)
@pytest.mark.parametrize("rule", FUNCTIONS)
def test_the_synchronous_limit_for_every_schedule(kdiff, rule, name, kind):
    """k = 1e-9 on a network that looks at neighbours, through tables of several noise levels."""
    p, sigmas = PARAMETRISATIONS[kind], host_list(name, STEPS)
    x = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(0)) * sigmas[0]
    director = Director(p, random_masks(1, (1e-9,), batch=2))
    model, asked = ToyDenoiser(p, director), ([], [])

    def noise(log):
        inner = seeded_noise(x, [1, 2])
        return lambda a, b: log.append((float(a), float(b))) or inner(a, b)

    options = {"s_churn": 2.0, "s_tmax": 9.0} if rule in CHURNED else {}
    ours = sample_asyndm(
        model, x, sigmas, disable=True, director=director, rule=rule,
        noise_sampler=noise(asked[0]), **options,
    )  # fmt: skip
    theirs = twin(kdiff, rule, ToyDenoiser(p), x, sigmas, noise(asked[1]), **options)
    assert (ours - theirs).abs().max() <= 1e-4 * max(1.0, theirs.abs().max().item())
    assert max(len(time.sigma_table) for time in model.seen) >= STEPS - 1
    if rule in CHURNED:
        assert len(asked[0]) == len(asked[1]) == STEPS
    else:  # the very same intervals, as a Brownian tree needs them
        assert asked[0] == asked[1]


def test_a_brownian_tree_is_asked_for_the_hosts_intervals(kdiff):
    """k-diffusion's own tree: k = 1e-9 is the twin; no pixel asks for an interval of its own."""
    sigmas = host_list("karras", STEPS)
    x = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(0)) * sigmas[0]

    def tree():
        low = sigmas[sigmas > 0].min()
        return kdiff.sampling.BrownianTreeNoiseSampler(x, low, sigmas.max(), seed=[3, 4])

    for rule in ("dpmpp_sde", "dpmpp_2m_sde", "dpmpp_3m_sde"):
        director = Director(EPS, random_masks(1, (1e-9,), batch=2))
        ours = sample_asyndm(
            ToyDenoiser(EPS, director), x, sigmas, disable=True, director=director, rule=rule,
            noise_sampler=tree(),
        )  # fmt: skip
        theirs = twin(kdiff, rule, ToyDenoiser(EPS), x, sigmas, tree())
        assert (ours - theirs).abs().max() <= 1e-4 * max(1.0, theirs.abs().max().item())


@pytest.mark.parametrize("rule", REGISTRY)
def test_no_step_waits_for_the_device(rule):
    """On the meta device tensors have no values, so every look at one raises."""
    sigmas = make_sigmas("kl_optimal", 6, EPS)
    x = torch.empty(2, 4, 8, 8, device="meta")
    source = CallableMasks(
        lambda i, d: torch.nn.functional.adaptive_avg_pool2d(d[:, :2], (4, 4)) > 0, (0.3, 0.8)
    )
    director = Director(EPS, source)

    def model(x, sigma):
        time = director.call.pixel_time
        assert time.sigma_table.device.type == director.call.timestep_table.device.type == "meta"
        return EPS.denoised(x, x.tanh() * time.index_at(4, 4).float().mean(), time.sigma_map())

    out = sample_asyndm(
        model, x, sigmas, disable=True, director=director, rule=rule,
        noise_sampler=seeded_noise(x, [1, 2]),
    )  # fmt: skip
    assert out.shape == x.shape


@pytest.mark.parametrize("rule", REGISTRY)
def test_image_j_of_a_batch_equals_the_image_alone(rule):
    sigmas = make_sigmas("karras", STEPS, EPS)
    x = torch.randn(3, 4, 8, 8, generator=torch.Generator().manual_seed(0)) * sigmas[0]

    def masks(i, denoised):
        maps = torch.nn.functional.adaptive_avg_pool2d(denoised[:, :1], (4, 4))
        return maps > maps.mean(dim=(2, 3), keepdim=True)

    def sample(images, seeds):
        director = Director(EPS, CallableMasks(masks, (0.6,)))
        return sample_asyndm(
            ToyDenoiser(EPS, director), images, sigmas, disable=True, director=director,
            rule=rule, noise_sampler=seeded_noise(images, seeds),
        )  # fmt: skip

    together = sample(x, [5, 6, 7])
    for j in range(3):
        alone = sample(x[j : j + 1], [5 + j])
        assert torch.allclose(together[j : j + 1], alone, atol=1e-4)


@pytest.mark.parametrize("rule", [name for name, entry in REGISTRY.items() if entry.calls > 1])
def test_masks_are_read_in_the_first_call_of_a_step(rule):
    sigmas = make_sigmas("karras", STEPS, EPS)
    x = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(0)) * sigmas[0]
    director, calls = Director(EPS, random_masks(1, (0.5,))), []
    toy = ToyDenoiser(EPS, director)

    def model(x, sigma):
        calls.append((director.call.reading, float(sigma[0])))
        return toy(x, sigma)

    sample_asyndm(
        model, x, sigmas, disable=True, director=director, rule=rule,
        noise_sampler=seeded_noise(x, [1]),
    )  # fmt: skip
    step = [True] + [False] * (REGISTRY[rule].calls - 1)
    steps = step * (STEPS - 1) + [True]
    if rule == "sa_solver_pece":  # its second call corrects the step before, so the first has none
        steps = [True] + [True, False] * (STEPS - 1)
    assert [reading for reading, _ in calls] == steps
    assert [s for reading, s in calls if reading] == pytest.approx(sigmas[:-1].tolist())
    assert director.call.reading


# --- the Gaussian toy: data are N(MEAN, SPREAD^2), so D and the flow of x are known ---

MEAN, SPREAD = 0.4, 0.7
HIGH, LOW = 10.0, 0.05
FIXED = torch.tensor([[1, 1, 0, 0]] * 4, dtype=torch.bool)[None, None]


def gaussian(director):
    def model(x, sigma):
        s = director.call.pixel_time.sigma_map().double()
        return MEAN + SPREAD**2 / (SPREAD**2 + s**2) * (x - MEAN)

    return model


class ExactStart:
    """A rule whose first steps end on the flow of x itself, and whose memory fills as ever.

    A multistep rule starts with steps of low order, and one step of local error h^2 is enough to
    hold the whole run's error at h^2: what its formula is worth is seen from an exact start.
    """

    def __init__(self, rule, steps: int) -> None:
        self.rule, self.left, self.draws_noise, self.s_noise = rule, steps, False, 1.0

    def __getattr__(self, name):
        return getattr(self.rule, name)

    def step(self, x, denoised, sigma, sigma_next, *more):
        if hasattr(self.rule, "_x") and self.left > 0:
            self.rule._x = None  # UniPC would correct what is exact
        out = self.rule.step(x, denoised, sigma, sigma_next, *more)
        self.left -= 1
        return out if self.left < 0 else flow(x, sigma, sigma_next)


def flow(x, sigma, sigma_next):
    """Where the probability flow of the Gaussian leads to."""
    return MEAN + (x - MEAN) * ((sigma_next**2 + SPREAD**2) / (sigma**2 + SPREAD**2)) ** 0.5


def error(rule: str, steps: int, flip: bool, start: int = 0, k: float = 0.5, **options) -> float:
    """Of the end of the flow, the largest over all pixels, with clocks of their own."""
    sigmas = torch.linspace(math.log(HIGH), math.log(LOW), steps + 1, dtype=torch.float64).exp()
    generator = torch.Generator().manual_seed(0)
    x = MEAN + torch.randn(1, 4, 4, 4, generator=generator, dtype=torch.float64) * math.hypot(
        HIGH, SPREAD
    )
    half = steps // 2
    source = CallableMasks(lambda i, d: ~FIXED if flip and i >= half else FIXED, (k,))
    director = Director(EPS, source)
    with pytest.MonkeyPatch.context() as patch:
        # Noise levels are kept in float32, which would be the floor of the higher orders' errors.
        patch.setattr(torch.Tensor, "float", torch.Tensor.double)
        if start:
            made = sampling.make_rule
            patch.setattr(sampling, "make_rule", lambda *a, **k: ExactStart(made(*a, **k), start))
        out = sample_asyndm(
            gaussian(director), x, sigmas, disable=True, director=director, rule=rule, **options
        )
    return (out - flow(x, HIGH, LOW)).abs().max().item()


def silence(sigma, sigma_next):
    return 0.0


ORDERS = [
    ("euler", {}, 1),
    ("ddim", {}, 1),
    ("heun", {}, 2),
    ("dpm_2", {}, 2),
    ("dpmpp_2m", {}, 2),
    ("dpm_2_a", {"eta": 0.0}, 2),
    ("dpmpp_2s_a", {"eta": 0.0}, 2),
    ("dpmpp_2m_sde", {"eta": 0.0}, 2),
    ("dpmpp_sde", {"eta": 0.0}, 2),
    ("lms", {"order": 2}, 2),
    ("lms", {"order": 3, "start": 2}, 3),
    ("lms", {"order": 4, "start": 3}, 4),
    ("ipndm", {"max_order": 2}, 2),
    ("ipndm", {}, 2),  # neighbouring steps become alike as there are more of them, and no more
    ("ipndm_v", {"max_order": 2}, 2),
    ("ipndm_v", {"max_order": 3, "start": 2, "first": 192}, 3),
    ("ipndm_v", {"first": 384}, 2),  # its weights sum to 1 where steps grow evenly
    ("deis", {"max_order": 2}, 2),
    ("deis", {"start": 2}, 3),
    ("deis", {"max_order": 4, "start": 3}, 4),
    ("res_multistep", {}, 2),
    ("res_multistep_a", {"eta": 0.0}, 2),
    ("sa_solver", {"tau": 0.0, "start": 3}, 4),
    ("sa_solver_pece", {"tau": 0.0, "start": 3}, 4),
    ("gradient_estimation", {}, 1),
    ("seeds_2", {"eta": 0.0}, 2),
    ("seeds_3", {"eta": 0.0}, 3),
    # k-diffusion's third-order term has half the weight of Taylor's, so that it is of order 2.
    ("dpmpp_3m_sde", {"eta": 0.0, "start": 2}, 2),
    ("unipc", {"order": 1}, 2),  # the corrector raises the predictor's order by one
    ("unipc", {"order": 3, "start": 3, "lower_order_final": False}, 4),
]


@pytest.mark.slow
@pytest.mark.parametrize("flip", [False, True], ids=["mask fixed", "mask flips once"])
@pytest.mark.parametrize(("rule", "options", "order"), ORDERS)
def test_the_error_falls_with_the_rules_order(rule, options, order, flip):
    options = dict(options)
    first = options.pop("first", 96 if "start" in options else 48)
    few, many = (error(rule, n, flip, noise_sampler=silence, **options) for n in (first, 2 * first))
    assert math.log2(few / many) == pytest.approx(order, abs=0.15)


@pytest.mark.slow
@pytest.mark.parametrize("flip", [False, True], ids=["mask fixed", "mask flips once"])
def test_unipc_of_order_2_has_order_3_but_for_its_cap(monkeypatch, flip):
    """Its formula on clocks of their own. The cap takes a wrong slope for the length of a step: the
    error keeps below that of order 2, without a slope of its own (its parts differ in sign)."""
    options = {"order": 2, "start": 2, "lower_order_final": False}
    capped = [error("unipc", n, flip, **options) for n in (48, 96, 192)]
    monkeypatch.setattr(unipc, "SECOND_ORDER_CAP", 1.0)
    free = [error("unipc", n, flip, **options) for n in (48, 96, 192)]
    for few, many in zip(free, free[1:], strict=False):
        assert math.log2(few / many) == pytest.approx(3, abs=0.15)
    assert all(capped[0] / many >= 4**i / 1.15 for i, many in enumerate(capped))
    assert max(own / one for own, one in zip(capped, free, strict=True)) < 1.05


@pytest.mark.slow
@pytest.mark.parametrize("rule", SDE)
def test_noise_keeps_the_distribution_with_clocks_of_their_own(rule):
    """Mean and variance of the data at the end, in both halves; pixels stay independent."""
    generator = torch.Generator().manual_seed(1)
    x = MEAN + torch.randn(64, 4, 8, 8, generator=generator) * math.hypot(HIGH, SPREAD)
    sigmas = torch.linspace(math.log(HIGH), math.log(LOW), 241).exp()
    director = Director(EPS, CallableMasks(lambda i, d: FIXED.expand(64, -1, -1, -1), (0.5,)))

    last = {}

    def noise(sigma, sigma_next):
        """Unit noise of one Brownian path: a longer interval goes on from the shorter one."""
        start, end = float(sigma), float(sigma_next)
        fresh = torch.randn(x.shape, generator=generator)
        if last and abs(last["start"] - start) < 1e-5:
            part = (start - last["end"]) / (start - end)
            fresh = math.sqrt(part) * last["noise"] + math.sqrt(1 - part) * fresh
        last.update(start=start, end=end, noise=fresh)
        return fresh

    out = sample_asyndm(
        gaussian(director), x, sigmas, disable=True, director=director, rule=rule,
        noise_sampler=noise, **SDE[rule],
    )  # fmt: skip
    spread = math.hypot(LOW, SPREAD)
    left, right = (half.flatten().double() for half in out.chunk(2, dim=3))
    for half in (left, right):
        count = len(half)
        assert abs(half.mean() - MEAN) < 3 * spread / math.sqrt(count)
        assert abs(half.var() / spread**2 - 1) < 3 * math.sqrt(2 / count)
    both = torch.stack([left, right])
    assert torch.corrcoef(both)[0, 1].abs() < 3 / math.sqrt(len(left))


def test_lcm_is_the_identity_of_d_and_the_next_noise():
    """Where D is known, x is D and noise of the pixel's next level, whatever came before."""
    sigmas = make_sigmas("karras", STEPS, EPS)
    x = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(0)) * sigmas[0]
    director, seen = Director(EPS, random_masks(2, (0.5,))), []
    noise = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(1))

    def model(x, sigma):
        seen.append((x, director.call.pixel_time.sigma_map()))
        return torch.full_like(x, 0.25)

    out = sample_asyndm(
        model, x, sigmas, disable=True, director=director, rule="lcm",
        noise_sampler=lambda a, b: noise,
    )  # fmt: skip
    for inside, level in seen[1:]:
        assert torch.allclose(inside, 0.25 + level * noise, atol=1e-5)
    assert torch.equal(out, torch.full_like(x, 0.25))


def test_lcms_boundary_scalings_and_rounded_levels():
    p = LcmParametrisation(alphas_cumprod())
    trained = torch.arange(50) * 20 + 19
    assert p.rounded(p.sigmas[trained]).tolist() == trained.tolist()
    levels = torch.linspace(0.03, 14.6, 500, dtype=torch.float64)
    logs = p.sigmas[trained].log()
    nearest = trained[(levels.log()[:, None] - logs).abs().argmin(dim=1)]
    assert p.rounded(levels).tolist() == nearest.tolist()
    x, output = (torch.randn(1, 2, 20, 25, dtype=torch.float64) for _ in range(2))
    sigma = levels.view(1, 1, 20, 25)
    t = 10.0 * nearest.double().view(1, 1, 20, 25)
    skip, out = 0.25 / (t**2 + 0.25), t / (t**2 + 0.25).sqrt()
    assert torch.allclose(p.denoised(x, output, sigma), out * (x - sigma * output) + skip * x)
