"""The loop against k-diffusion's own samplers, and what a run leaves behind."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from core_toys import (
    PARAMETRISATIONS,
    ToyDenoiser,
    alphas_cumprod,
    no_masks,
    random_masks,
)

from asyndm.core.masks import CallableMasks, DynamicMasks
from asyndm.core.run import Director
from asyndm.core.sampling import NoiseSamplerMissing, sample_asyndm, seeded_noise
from asyndm.core.sigmas import make_sigmas

STEPS = 8
LISTS = ("uniform", "karras", "exponential", "kl_optimal", "mid-schedule", "one step")


def sigma_list(name: str, parametrisation) -> torch.Tensor:
    if name == "mid-schedule":
        return make_sigmas("uniform", 14, parametrisation)[6:]
    if name == "one step":
        return make_sigmas("uniform", 14, parametrisation)[12:-1]  # two entries, not ending in 0
    return make_sigmas(name, STEPS, parametrisation)


def start(sigmas: torch.Tensor, batch: int = 2, seed: int = 0) -> torch.Tensor:
    return torch.randn(batch, 4, 8, 8, generator=torch.Generator().manual_seed(seed)) * sigmas[0]


def flow_ancestral(model, x, sigmas, noise_sampler, eta=1.0):
    """Euler ancestral for rectified flow (the installed k-diffusion has none), scalar by scalar."""
    for i in range(len(sigmas) - 1):
        a, b = float(sigmas[i]), float(sigmas[i + 1])
        denoised = model(x, sigmas[i] * x.new_ones(len(x)))
        if b == 0:
            return denoised
        down = b * (1 - eta + eta * b / a)
        x = down / a * x + (1 - down / a) * denoised
        renoise = (b**2 - (down * (1 - b) / (1 - down)) ** 2) ** 0.5
        x = (1 - b) / (1 - down) * x + renoise * noise_sampler(sigmas[i], sigmas[i + 1])
    return x


def twin(kdiff, rule, parametrisation, model, x, sigmas, noise_sampler):
    """k-diffusion's own sampler for the rule."""
    if rule == "ddpm" and parametrisation.flow:
        return flow_ancestral(model, x, sigmas, noise_sampler)
    if rule == "ddpm":
        return kdiff.sampling.sample_euler_ancestral(
            model, x, sigmas, disable=True, noise_sampler=noise_sampler
        )
    sampler = {"euler": kdiff.sampling.sample_euler, "dpmpp_2m": kdiff.sampling.sample_dpmpp_2m}
    return sampler[rule](model, x, sigmas, disable=True)


class CountedNoise:
    """Seeded noise that remembers at which sigmas it was drawn."""

    def __init__(self, x, seed=9) -> None:
        self.inner = seeded_noise(x, [seed + j for j in range(len(x))])
        self.calls: list[tuple[float, float]] = []

    def __call__(self, sigma, sigma_next):
        self.calls.append((float(sigma), float(sigma_next)))
        return self.inner(sigma, sigma_next)


@pytest.mark.parametrize("mode", ["k = 1e-9", "no mask"])
@pytest.mark.parametrize("rule", ["ddpm", "euler", "dpmpp_2m"])
@pytest.mark.parametrize("name", LISTS)
@pytest.mark.parametrize("kind", PARAMETRISATIONS)
def test_the_synchronous_limit_is_k_diffusions_own_sampler(kdiff, kind, name, rule, mode):
    p = PARAMETRISATIONS[kind]
    sigmas = sigma_list(name, p)
    x = start(sigmas)
    source = random_masks(1, (1e-9,), batch=2) if mode == "k = 1e-9" else no_masks((0.7,), batch=2)
    director = Director(p, source, first_step="objects" if mode == "k = 1e-9" else "background")
    model = ToyDenoiser(p, director)
    ours_noise, their_noise = CountedNoise(x), CountedNoise(x)
    ours = sample_asyndm(
        model, x, sigmas, disable=True, director=director, rule=rule, noise_sampler=ours_noise
    )
    theirs = twin(kdiff, rule, p, ToyDenoiser(p), x, sigmas, their_noise)
    assert (ours - theirs).abs().max() <= 1e-4 * max(1.0, theirs.abs().max().item())
    assert ours_noise.calls == their_noise.calls
    if len(sigmas) > 2:  # the general path was taken: tables of several noise levels
        assert max(len(time.sigma_table) for time in model.seen) == len(sigmas) - 1


@pytest.mark.parametrize("curve", ["piecewise", "exponential"])
@pytest.mark.parametrize("rule", ["ddpm", "dpmpp_2m"])
def test_the_synchronous_limit_of_the_other_curves(kdiff, curve, rule):
    p = PARAMETRISATIONS["eps"]
    sigmas = sigma_list("karras", p)
    x = start(sigmas)
    director = Director(p, random_masks(1, (1e-9,), batch=2), curve=curve)
    noise, theirs_noise = CountedNoise(x), CountedNoise(x)
    ours = sample_asyndm(
        ToyDenoiser(p, director), x, sigmas, disable=True, director=director, rule=rule,
        noise_sampler=noise,
    )  # fmt: skip
    theirs = twin(kdiff, rule, p, ToyDenoiser(p), x, sigmas, theirs_noise)
    assert (ours - theirs).abs().max() <= 1e-4 * max(1.0, theirs.abs().max().item())


def test_a_real_curvature_is_something_else(kdiff):
    """The comparisons above would notice: at k = 0.5 the result moves by far more than 1e-4."""
    p = PARAMETRISATIONS["eps"]
    sigmas = sigma_list("karras", p)
    x = start(sigmas)
    director = Director(p, random_masks(1, (0.5,), batch=2))
    ours = sample_asyndm(
        ToyDenoiser(p, director), x, sigmas, disable=True, director=director, rule="euler"
    )
    theirs = twin(kdiff, "euler", p, ToyDenoiser(p), x, sigmas, None)
    assert (ours - theirs).abs().max() > 0.01


class Inner:
    """What k-diffusion's CompVisDenoiser wraps."""

    alphas_cumprod = alphas_cumprod().float()

    def apply_model(self, x, t, strength=1.0):
        return x.tanh() * strength * (1 + t.view(-1, 1, 1, 1) / 1000)


class InnerModule(torch.nn.Module, Inner):
    pass


def test_a_plain_k_diffusion_sampler_function_on_k_diffusions_denoiser(kdiff):
    denoiser = kdiff.external.CompVisDenoiser(InnerModule())
    sigmas = denoiser.get_sigmas(STEPS)
    x = start(sigmas)
    director = Director(PARAMETRISATIONS["eps"], random_masks(1, (1e-9,), batch=2))
    sampler = partial(sample_asyndm, director=director, noise_sampler=CountedNoise(x))
    seen = {"ours": [], "theirs": []}
    arguments = {"extra_args": {"strength": 0.8}, "disable": True}
    ours = sampler(denoiser, x, sigmas, callback=seen["ours"].append, **arguments)
    theirs = kdiff.sampling.sample_euler_ancestral(
        denoiser, x, sigmas, callback=seen["theirs"].append, noise_sampler=CountedNoise(x),
        **arguments,
    )  # fmt: skip
    assert torch.allclose(ours, theirs, atol=1e-4)
    assert len(seen["ours"]) == len(seen["theirs"]) == STEPS
    for a, b in zip(seen["ours"], seen["theirs"], strict=True):
        assert a.keys() == b.keys() == {"x", "i", "sigma", "sigma_hat", "denoised"}
        assert a["i"] == b["i"] and a["sigma"] == b["sigma"] and a["sigma_hat"] == b["sigma_hat"]
        assert torch.allclose(a["x"], b["x"], atol=1e-4)
        assert torch.allclose(a["denoised"], b["denoised"], atol=1e-4)


@pytest.mark.parametrize("name", ["uniform", "leading", "karras", "exponential"])
@pytest.mark.parametrize("steps", [1, 2, 20])
def test_make_sigmas_are_k_diffusions(kdiff, name, steps):
    p = PARAMETRISATIONS["eps"]
    low, high = float(p.sigmas[0]), float(p.sigmas[-1])
    ours = make_sigmas(name, steps, p)
    if name == "uniform":
        theirs = kdiff.external.CompVisDenoiser(InnerModule()).get_sigmas(steps)
    elif name == "leading":
        t = torch.arange(steps).flip(0) * (1000 // steps) + 1
        theirs = torch.cat([p.sigmas[t].float(), torch.zeros(1)])
    else:
        function = getattr(kdiff.sampling, f"get_sigmas_{name}")
        theirs = function(steps, low, high)
    assert torch.allclose(ours, theirs, rtol=1e-4)


@pytest.mark.parametrize("soft", [False, True])
@pytest.mark.parametrize("curve", ["quadratic", "exponential"])
@pytest.mark.parametrize("rule", ["ddpm", "dpmpp_2m"])
def test_image_j_of_a_batch_equals_the_image_alone(rule, curve, soft):
    p = PARAMETRISATIONS["v"]
    sigmas = make_sigmas("karras", STEPS, p)
    x = start(sigmas, batch=3)

    def masks(i, denoised):  # each image's own, as attention would be
        maps = torch.nn.functional.adaptive_avg_pool2d(denoised[:, :2], (4, 4))
        return maps.sigmoid() if soft else maps > maps.mean(dim=(2, 3), keepdim=True)

    def sample(images, seeds):
        director = Director(p, CallableMasks(masks, (0.3, 0.8)), curve=curve)
        return sample_asyndm(
            ToyDenoiser(p, director), images, sigmas, disable=True, director=director, rule=rule,
            noise_sampler=seeded_noise(images, seeds),
        )  # fmt: skip

    together = sample(x, [5, 6, 7])
    for j in range(3):
        assert torch.allclose(together[j : j + 1], sample(x[j : j + 1], [5 + j]), atol=2e-5)


class Interrupted(BaseException):
    """Like the hosts' InterruptedException: only finally sees it."""


@pytest.mark.parametrize("where", ["model", "callback", "noise", "masks"])
@pytest.mark.parametrize("step", [0, 3, STEPS - 2])
def test_an_error_in_any_step_leaves_a_clean_director(where, step):
    p = PARAMETRISATIONS["eps"]
    sigmas = make_sigmas("karras", STEPS, p)
    x = start(sigmas)
    armed = {"on": True, "noise": 0}

    def fuse(place, i):
        if armed["on"] and place == where and i == step:
            raise Interrupted

    inner = random_masks(4, (0.6,), batch=2)

    def masks(i, denoised):
        fuse("masks", i)
        return inner.function(i, denoised)

    director = Director(p, CallableMasks(masks, (0.6,)))

    def model_of(director):
        toy, steps = ToyDenoiser(p, director), iter(range(STEPS))

        def model(x, sigma):
            fuse("model", next(steps))
            return toy(x, sigma)

        return model

    def run():
        noise = CountedNoise(x)

        def draw(sigma, sigma_next):
            fuse("noise", len(noise.calls))
            return noise(sigma, sigma_next)

        return sample_asyndm(
            model_of(director), x, sigmas, disable=True, director=director,
            callback=lambda d: fuse("callback", d["i"]), noise_sampler=draw,
        )  # fmt: skip

    with pytest.raises(Interrupted):
        run()
    call = director.call
    assert (call.pixel_time, call.timestep_table, call.rows) == (None, None, None)
    assert director.clock is None
    armed["on"] = False
    again = run()
    assert director.call.pixel_time is None and director.clock is None
    director = Director(p, random_masks(4, (0.6,), batch=2))
    assert torch.equal(again, run())


def test_noise_is_never_drawn_from_the_global_generator():
    p = PARAMETRISATIONS["eps"]
    sigmas = make_sigmas("karras", 4, p)
    x = start(sigmas)
    before = torch.get_rng_state()
    director = Director(p, random_masks(1, (0.5,), batch=2))
    with pytest.raises(NoiseSamplerMissing, match="noise_sampler"):
        sample_asyndm(ToyDenoiser(p, director), x, sigmas, disable=True, director=director)
    for rule, noise in (("euler", None), ("dpmpp_2m", None), ("ddpm", seeded_noise(x, [1, 2]))):
        model = ToyDenoiser(p, director)
        sample_asyndm(
            model, x, sigmas, disable=True, director=director, rule=rule, noise_sampler=noise
        )
    assert torch.equal(before, torch.get_rng_state())
    with pytest.raises(ValueError, match="seeds"):
        seeded_noise(x, [1])


def test_half_precision_latents_stay_half_and_are_stepped_in_float32():
    p = PARAMETRISATIONS["eps"]
    sigmas = make_sigmas("karras", 4, p)
    x = start(sigmas)
    director = Director(p, random_masks(1, (0.5,), batch=2))
    run = partial(sample_asyndm, sigmas=sigmas, disable=True, director=director, rule="euler")
    half = run(lambda x, s: x * 0.5, x.half())
    assert half.dtype == torch.float16
    assert torch.allclose(half.float(), run(lambda x, s: x * 0.5, x), atol=2e-2)


def test_the_mask_of_step_i_steers_step_i_plus_1():
    """The paper's order, with all pixels objects first; told apart by one step that has no mask."""
    p = PARAMETRISATIONS["eps"]
    sigmas = make_sigmas("uniform", 5, p)
    full = torch.ones(1, 1, 4, 4, dtype=torch.bool)
    source = CallableMasks(lambda i, d: full if i != 1 else ~full, (0.4,))
    director = Director(p, source, record=True)
    x = start(sigmas, batch=1)
    sample_asyndm(lambda x, s: x, x, sigmas, disable=True, director=director, rule="euler")
    masks = [frame.mask.mean().item() for frame in director.history.frames()]
    assert masks == [1, 1, 0, 1, 1]  # what leads out of calls 0, 1, 2, ...
    n, k = 4, 0.4
    counts = [0, 1, 2, 2, 3]
    clocks = [frame.clock.mean().item() for frame in director.history.frames()]
    assert clocks == pytest.approx(
        [i - (n - i) * k * count / n for i, count in enumerate(counts)], abs=1e-6
    )


@pytest.mark.parametrize("grid", [(1, 1), (3, 4), (9, 13), (18, 26)])
def test_other_grids_and_odd_sizes(grid):
    p = PARAMETRISATIONS["eps"]
    sigmas = make_sigmas("uniform", 5, p)
    x = torch.randn(1, 4, 9, 13) * sigmas[0]
    director = Director(p, random_masks(2, (0.4,), grid), record=True)
    out = sample_asyndm(
        ToyDenoiser(p, director), x, sigmas, disable=True, director=director, rule="euler"
    )
    assert out.shape == x.shape and torch.isfinite(out).all()
    for frame in director.history.frames():
        for picture in (frame.mask, frame.clock, frame.sigma, frame.timestep):
            assert picture.shape == (1, *grid)


class ListCapture:
    """A capture that returns given maps."""

    def __init__(self) -> None:
        self.reads = 0

    def read(self):
        self.reads += 1
        maps = torch.zeros(1, 1, 4, 4)
        maps[:, :, 0] = 1
        return maps


def test_dynamic_masks_read_the_capture_once_a_step():
    p = PARAMETRISATIONS["eps"]
    sigmas = make_sigmas("uniform", 5, p)
    capture = ListCapture()
    director = Director(p, DynamicMasks(capture, (0.4,)), record=True)
    x = start(sigmas, batch=1)
    sample_asyndm(lambda x, s: x, x, sigmas, disable=True, director=director, rule="euler")
    assert capture.reads == 5
    assert director.history.frames()[2].mask[0, :, 0].tolist() == [1, 0, 0, 0]


@pytest.mark.parametrize("smoothing", [0.0, 0.6])
def test_one_director_makes_the_same_image_twice(smoothing):
    p = PARAMETRISATIONS["eps"]
    sigmas = make_sigmas("karras", 5, p)
    x = start(sigmas, batch=1)

    class Capture:
        read_at = 0

        def read(self):
            self.read_at = self.read_at % 5 + 1
            return torch.rand(1, 1, 4, 4, generator=torch.Generator().manual_seed(self.read_at))

    director = Director(p, DynamicMasks(Capture(), (0.4,), smoothing=smoothing))
    model = ToyDenoiser(p, director)
    run = partial(sample_asyndm, model, x, sigmas, disable=True, director=director, rule="euler")
    assert torch.equal(run(), run())


@pytest.mark.parametrize("curve", ["quadratic", "exponential"])
@pytest.mark.parametrize("soft", [False, True])
@pytest.mark.parametrize("rule", ["ddpm", "euler", "dpmpp_2m"])
@pytest.mark.parametrize("kind", PARAMETRISATIONS)
def test_no_step_waits_for_the_device(kind, rule, soft, curve):
    """On the meta device tensors have no values, so every look at one raises."""
    p = PARAMETRISATIONS[kind]
    sigmas = make_sigmas("karras", 6, p)
    x = torch.empty(2, 4, 8, 8, device="meta")

    def masks(i, denoised):
        maps = torch.nn.functional.adaptive_avg_pool2d(denoised[:, :2], (4, 4))
        return maps.sigmoid() if soft else maps > 0

    source = CallableMasks(masks, (0.3, 0.8))
    director = Director(p, source, curve=curve, record=True)

    def model(x, sigma):
        time = director.call.pixel_time
        assert time.sigma_table.device.type == "meta"
        assert director.call.timestep_table.device.type == "meta"
        return p.denoised(x, x.tanh() * time.index_at(4, 4).float().mean(), time.sigma_map())

    out = sample_asyndm(
        model, x, sigmas, disable=True, director=director, rule=rule,
        noise_sampler=seeded_noise(x, [1, 2]),
    )  # fmt: skip
    assert out.shape == x.shape and len(director.history) == 6
    with pytest.raises((RuntimeError, NotImplementedError)):  # the check itself: values do raise
        out.sum().item()
