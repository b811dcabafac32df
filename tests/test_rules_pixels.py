"""With a pointwise denoiser every pixel is what k-diffusion makes of that pixel's noise levels."""

from __future__ import annotations

import adams_oracles
import pytest
import rule_oracles as oracles
import rule_oracles_comfy as comfy
import torch
from core_toys import PARAMETRISATIONS, random_masks
from rule_oracles import FUNCTIONS, Bounds, NextNoise, pointwise, twin

from asyndm.core.rules import NO_FORM, REGISTRY, make_rule
from asyndm.core.run import Director
from asyndm.core.sampling import sample_asyndm, seeded_noise
from asyndm.core.sigmas import ddim_sigmas, make_sigmas

WRITTEN = oracles.WRITTEN | adams_oracles.WRITTEN | comfy.WRITTEN
EPS = PARAMETRISATIONS["eps"]
STEPS = 9
# Every rule, with options off their defaults.
CASES = [
    ("ddpm", {}),
    ("ddpm", {"eta": 0.6, "s_noise": 0.9}),
    ("euler", {}),
    ("euler", {"s_churn": 3.0, "s_tmin": 0.3, "s_tmax": 9.0, "s_noise": 1.02}),
    ("heun", {}),
    ("heun", {"s_churn": 3.0, "s_tmin": 0.3, "s_tmax": 9.0, "s_noise": 1.02}),
    ("dpm_2", {}),
    ("dpm_2", {"s_churn": 9.0}),
    ("dpm_2_a", {}),
    ("dpm_2_a", {"eta": 0.4, "s_noise": 1.1}),
    ("dpmpp_2s_a", {}),
    ("dpmpp_2s_a", {"eta": 0.0}),
    ("dpmpp_sde", {}),
    ("dpmpp_sde", {"eta": 0.3, "s_noise": 0.8, "r": 0.35}),
    ("dpmpp_2m", {}),
    ("dpmpp_2m_sde", {}),
    ("dpmpp_2m_sde", {"solver_type": "heun", "eta": 0.5, "s_noise": 1.1}),
    ("dpmpp_2m_sde", {"eta": 0.0}),
    ("dpmpp_3m_sde", {}),
    ("dpmpp_3m_sde", {"eta": 0.0}),
    ("lms", {}),
    ("lms", {"order": 3}),
    ("lms", {"lower_order_final": True}),
    ("unipc", {}),
    ("unipc", {"variant": "bh2", "order": 2}),
    ("ipndm", {}),
    ("ipndm", {"max_order": 3, "lower_order_final": True}),
    ("ipndm_v", {}),
    ("ipndm_v", {"max_order": 3, "lower_order_final": True}),
    ("deis", {}),
    ("deis", {"max_order": 4}),
    ("ddpm_vp", {}),
    ("res_multistep", {}),
    ("res_multistep_a", {}),
    ("res_multistep_a", {"eta": 0.4, "s_noise": 1.1}),
    ("gradient_estimation", {}),
    ("gradient_estimation", {"ge_gamma": 1.5}),
    ("seeds_2", {}),
    ("seeds_2", {"eta": 0.4, "s_noise": 1.1}),
    ("seeds_3", {}),
    ("seeds_3", {"eta": 0.4, "s_noise": 1.1}),
    ("seeds_3", {"eta": 0.0}),
    ("sa_solver", {}),
    ("sa_solver", {"start_sigma": 6.0, "end_sigma": 0.5, "s_noise": 1.1}),
    ("sa_solver", {"tau": 0.6, "predictor_order": 2, "corrector_order": 3}),
    ("sa_solver_pece", {"start_sigma": 6.0, "end_sigma": 0.5}),
    ("sa_solver_pece", {"tau": 0.0, "last_step": False}),
    ("er_sde", {}),
    ("er_sde", {"max_stage": 2, "s_noise": 0.9}),
    ("er_sde", {"s_noise": 0.0}),
    ("lcm", {}),
    ("ddim", {}),
    ("ddim", {"eta": 0.7}),
]
NAMES = [f"{rule} {options or ''}" for rule, options in CASES]


class Watched(Director):
    """Keeps the noise levels of every step, [B, 1, H, W]."""

    def begin(self, x, sigmas):
        time = super().begin(x, sigmas)
        self.levels = [time.sigma_map()]
        return time

    def advance(self, i, denoised):
        time = super().advance(i, denoised)
        self.levels.append(time.sigma_map())
        return time


class Recorded:
    """Seeded noise that is kept."""

    def __init__(self, x) -> None:
        self.inner, self.drawn, self.intervals = seeded_noise(x, range(len(x))), [], []

    def __call__(self, sigma, sigma_next):
        self.drawn.append(self.inner(sigma, sigma_next))
        self.intervals.append((float(sigma), float(sigma_next)))
        return self.drawn[-1]


def network(director, kind=None):
    """The pointwise denoiser at the map the hooks would be told."""

    def model(x, sigma):
        time = director.call.pixel_time
        table = director.parametrisation.timestep(time.sigma_table)
        assert torch.allclose(director.call.timestep_table, table)
        return pointwise(x, time.sigma_map())

    return model


def run(rule, options, sigmas, source, parametrisation=EPS, seed=0, curve="quadratic"):
    """(x at the start, x at the end, levels [calls + 1, B, H, W], noise)."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(2, 4, 8, 8, generator=generator, dtype=torch.float64) * sigmas[0]
    director = Watched(parametrisation, source, curve=curve)
    noise = Recorded(x)
    out = sample_asyndm(
        network(director), x, sigmas, disable=True, director=director, rule=rule,
        noise_sampler=noise, **options,
    )  # fmt: skip
    return x, out, torch.stack(director.levels)[:, :, 0], noise


def cells(levels):
    """(image, rows, columns) of the 4 x 4 cells of 8 x 8 pixels, and their list of noise levels."""
    for image in range(levels.shape[1]):
        for y in range(0, 8, 2):
            for x in range(0, 8, 2):
                where = (slice(image, image + 1), slice(None), slice(y, y + 2), slice(x, x + 2))
                yield where, levels[:, image, y, x]


def alone(kdiff, rule, options, x, sigmas, host, drawn, bounds=None, model=pointwise):
    """The cell's image made by the oracle on the cell's own list."""
    noise = NextNoise(drawn)
    if bounds is not None:
        return WRITTEN[rule](model, x, sigmas, host, bounds, noise, **options)
    if rule in ("lcm", "ddim", "ddpm_vp"):
        made = adams_oracles if rule == "ddpm_vp" else oracles
        return getattr(made, rule)(model, x, sigmas, noise, **options)
    if rule in comfy.PLAIN:
        return comfy.PLAIN[rule](model, x, sigmas, noise, **options)
    if options.get("s_churn"):
        return churned(kdiff, rule, options, x, sigmas, host, noise)
    return twin(kdiff, rule, model, x, sigmas, noise, **options)


def churned(kdiff, rule, options, x, sigmas, host, noise):
    """k-diffusion step by step (these rules remember nothing): the *host's* sigma says whether."""
    options = dict(options)
    churn = options.pop("s_churn") / (len(sigmas) - 1)
    low, high = options.pop("s_tmin", 0), options.pop("s_tmax", float("inf"))
    for i in range(len(sigmas) - 1):
        gamma = min(churn, 2**0.5 - 1) if low <= host[i] <= high else 0.0
        here = sigmas[i : i + 2]
        draw = noise(0, 0)
        x = twin(
            kdiff, rule, pointwise, x, here, lambda a, b, draw=draw: draw, s_churn=gamma, **options
        )
    return x


def close(ours, theirs):
    return (ours - theirs).abs().max() <= 1e-4 * max(1.0, theirs.abs().max().item())


def lists(rule):
    if rule == "ddim":
        return {"ddim": ddim_sigmas(STEPS, EPS)}
    return {
        "karras": make_sigmas("karras", STEPS, EPS),
        "kl_optimal": make_sigmas("kl_optimal", STEPS, EPS),  # ends above 0
    }


@pytest.mark.parametrize("curvatures", [(0.3,), (0.2, 1.0)])
@pytest.mark.parametrize(("rule", "options"), CASES, ids=NAMES)
def test_every_pixel_is_the_twins_on_its_own_list(kdiff, rule, options, curvatures):
    """Other masks in every step; where no bound acts, k-diffusion itself; bounds are in writing."""
    for name, sigmas in lists(rule).items():
        host, acted = sigmas.double().tolist(), set()
        source = random_masks(1, curvatures, batch=2)
        x, out, levels, noise = run(rule, options, sigmas, source)
        assert len({tuple(each.tolist()) for _, each in cells(levels)}) > 20  # clocks of their own
        for where, each in cells(levels):
            drawn = [one[where] for one in noise.drawn]
            bounds = Bounds() if rule in WRITTEN else None
            theirs = alone(kdiff, rule, options, x[where], each, host, drawn, bounds)
            assert close(out[where], theirs), (name, each)
            told = rule in FUNCTIONS and "lower_order_final" not in options  # Neo's LMS, not its
            if bounds is not None and not bounds.acted and told:
                theirs = alone(kdiff, rule, options, x[where], each, host, drawn)
                assert close(out[where], theirs), (name, each)
            acted.add(bounds is not None and bounds.acted)
        assert rule not in WRITTEN or curvatures == (0.3,) or True in acted


@pytest.mark.parametrize(
    ("rule", "options"),
    [c for c in CASES if c[0] in WRITTEN and c[0] in FUNCTIONS and "lower_order_final" not in c[1]],
)
def test_what_is_written_down_is_k_diffusions(kdiff, rule, options):
    for seed in range(6):
        generator = torch.Generator().manual_seed(seed)
        sigmas = (torch.rand(STEPS, generator=generator) * 12).sort(descending=True).values
        sigmas = torch.cat([sigmas + 0.03, torch.zeros(1)]) if seed % 2 else sigmas + 0.03
        x = torch.randn(1, 4, 3, 3, generator=generator, dtype=torch.float64) * sigmas[0]
        drawn = [torch.randn(x.shape, generator=generator).double() for _ in range(2 * STEPS)]
        off = Bounds(on=False)
        ours = alone(kdiff, rule, options, x, sigmas, sigmas.tolist(), drawn, off)
        theirs = alone(kdiff, rule, options, x, sigmas, sigmas.tolist(), drawn)
        assert close(ours, theirs)


@pytest.mark.parametrize("order", [1, 2, 3])
@pytest.mark.parametrize("variant", ["bh1", "bh2"])
def test_unipc_is_the_authors_in_diffusers(variant, order):
    """The implementation of their scheduler, on the same list; and what is written down too."""
    diffusers = pytest.importorskip("diffusers.schedulers")
    sigmas = make_sigmas("kl_optimal", STEPS, EPS)
    scheduler = diffusers.UniPCMultistepScheduler(
        solver_order=order, solver_type=variant, prediction_type="sample", lower_order_final=True
    )
    scheduler.set_timesteps(STEPS)
    scheduler.sigmas = sigmas
    scheduler._step_index = 0
    x = torch.randn(1, 4, 3, 3, generator=torch.Generator().manual_seed(1)) * sigmas[0]
    alpha = (1 + sigmas**2).rsqrt()
    vp = x * alpha[0]
    for i, t in enumerate(scheduler.timesteps):
        D = pointwise(vp / alpha[i], sigmas[i : i + 1])
        vp = scheduler.step(D, t, vp, return_dict=False)[0]
    options = {"variant": variant, "order": order}
    theirs = vp / alpha[-1]
    off = Bounds(on=False)
    written = alone(None, "unipc", options, x.double(), sigmas, sigmas.tolist(), [], off)
    assert close(written, theirs.double())
    director = Director(EPS, random_masks(1, (1e-9,)))
    model = network(director)
    ours = sample_asyndm(model, x, sigmas, disable=True, director=director, rule="unipc", **options)
    assert close(ours, theirs)


@pytest.mark.parametrize(("rule", "options"), CASES, ids=NAMES)
def test_a_pixel_that_halts_is_finite_and_waits(rule, options):
    """The piecewise curve at k = 1 stands still for half of the run."""
    sigmas = lists(rule).popitem()[1]
    source = random_masks(3, (1.0,), batch=2)
    _, out, levels, _ = run(rule, options, sigmas, source, curve="piecewise")
    assert bool((levels.diff(dim=0) == 0).any())
    assert torch.isfinite(out).all()
    if rule in WRITTEN:
        x, out, levels, noise = run(rule, options, sigmas, source, curve="piecewise")
        host = sigmas.double().tolist()
        for where, each in cells(levels):
            drawn = [one[where] for one in noise.drawn]
            theirs = alone(None, rule, options, x[where], each, host, drawn, Bounds())
            assert close(out[where], theirs), each


def plain(kdiff, rule, *cell):
    """The oracle as it is: the probability flow is one for both kinds of latents."""
    return alone(kdiff, rule, {}, *cell)


def in_half_log_snr(kdiff, rule, x, sigmas, host, drawn, bounds):
    """The oracle on x / (1 - sigma), of a list that ComfyUI writes as half log-SNR."""

    def ratio(levels):
        levels = torch.as_tensor(levels, dtype=torch.float64).clamp(max=1 - 1e-6)
        return levels / (1 - levels)

    def model(x, level):
        level = torch.as_tensor(level, dtype=torch.float64)
        sigma = level / (1 + level)
        return pointwise(x * (1 - sigma.reshape(-1, 1, 1, 1)), sigma)

    start = x / (1 - float(min(sigmas[0], 1 - 1e-6)))
    levels, ends = ratio(sigmas), ratio(host).tolist()
    made = alone(kdiff, rule, {}, start, levels, ends, drawn, bounds, model)
    return made * (1 - sigmas[-1])


@pytest.mark.parametrize("rule", [name for name, entry in REGISTRY.items() if entry.flow])
def test_flow_latents(kdiff, rule):
    p = PARAMETRISATIONS["flow"]
    sigmas = make_sigmas("uniform", STEPS, p)
    if rule == "ddpm":
        pytest.skip("test_sampling.py has its oracle")
    x, out, levels, noise = run(rule, {}, sigmas, random_masks(4, (0.3,), batch=2), p)
    host = sigmas.double().tolist()
    for where, each in cells(levels):
        drawn = [one[where] for one in noise.drawn]
        if rule == "lcm":
            theirs = oracles.lcm(pointwise, x[where], each, NextNoise(drawn), flow=True)
        elif rule == "dpm_2_a":
            theirs = oracles.dpm_2_a_on_flow(pointwise, x[where], each, NextNoise(drawn))
        else:
            bounds = Bounds() if rule in WRITTEN else None
            made = in_half_log_snr if REGISTRY[rule].by_half_log_snr else plain
            theirs = made(kdiff, rule, x[where], each, host, drawn, bounds)
        assert close(out[where], theirs)


def test_the_registry_says_what_has_no_form():
    for name, why in NO_FORM.items():
        with pytest.raises(ValueError, match=why[:20]):
            make_rule(name)
    with pytest.raises(ValueError, match="flow"):
        make_rule("ddim", flow=True)
    with pytest.raises(ValueError, match="s_churn"):
        make_rule("lms", s_churn=1.0)
    with pytest.raises(ValueError, match="solver_type"):
        make_rule("dpmpp_2m_sde", solver_type="heum")
    assert {entry.calls for entry in REGISTRY.values()} == {1, 2, 3}
    for entry in REGISTRY.values():
        assert entry.make().draws_noise in (True, False)
