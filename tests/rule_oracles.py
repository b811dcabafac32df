"""k-diffusion's samplers by rule, and the multistep ones once more with the bounds in writing.

A multistep rule bounds how far a pixel whose pace just changed may extrapolate. k-diffusion has no
such bound, so its rules are written down here for one list of noise levels, in floats, with a
switch: without the bounds they must be k-diffusion's (and diffusers' UniPC), with them ours.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import torch

CAP = 1.0  # of a step's ratio to the last one
REACH = 2.0  # of rules of higher order


def pointwise(x, sigma):
    """A denoiser that looks at no neighbour; ``sigma`` a map or one number an image."""
    sigma = sigma.reshape(-1, 1, 1, 1) if sigma.ndim == 1 else sigma
    bend = (2 * x / (1 + sigma)).tanh() + 0.3 * (sigma / 2).cos()
    return x / (1 + sigma**2) + 0.4 * bend * sigma / (1 + sigma)


class NextNoise:
    """A noise sampler that hands out what was drawn before, in order; also as ``randn_like``."""

    def __init__(self, drawn) -> None:
        self.drawn, self.intervals = iter(drawn), []

    def __call__(self, sigma, sigma_next):
        self.intervals.append((float(sigma), float(sigma_next)))
        return next(self.drawn)


class Hijack:
    """The torch a host gives to k-diffusion: its own noise in ``randn_like``."""

    def __init__(self, draw: Callable) -> None:
        self.draw = draw

    def __getattr__(self, name):
        return getattr(torch, name)

    def randn_like(self, x):
        return self.draw(0, 0)


CHURNED = ("euler", "heun", "dpm_2")
PLAIN = ("dpmpp_2m", "lms")
FUNCTIONS = {
    "ddpm": "euler_ancestral",
    "euler": "euler",
    "dpmpp_2m": "dpmpp_2m",
    "dpmpp_2m_sde": "dpmpp_2m_sde",
    "dpmpp_3m_sde": "dpmpp_3m_sde",
    "dpmpp_sde": "dpmpp_sde",
    "dpmpp_2s_a": "dpmpp_2s_ancestral",
    "heun": "heun",
    "dpm_2": "dpm_2",
    "dpm_2_a": "dpm_2_ancestral",
    "lms": "lms",
}


def twin(kdiff, rule, model, x, sigmas, noise, **options):
    """k-diffusion's own sampler."""
    function = getattr(kdiff.sampling, f"sample_{FUNCTIONS[rule]}")
    if rule in CHURNED:
        before = kdiff.sampling.torch
        kdiff.sampling.torch = Hijack(noise if options.get("s_churn") else lambda a, b: x * 0)
        try:
            return function(model, x, sigmas, disable=True, **options)
        finally:
            kdiff.sampling.torch = before
    if rule not in PLAIN:
        options["noise_sampler"] = noise
    return function(model, x, sigmas, disable=True, **options)


def ratio(step: float, last: float) -> float:
    return step / last if last > 0 else 0.0


class Bounds:
    """The bounds in writing; ``on`` False: k-diffusion as it is. Remembers whether one acted."""

    def __init__(self, on: bool = True) -> None:
        self.on, self.acted = on, False

    def cap(self, wanted: float, host: float) -> float:
        bounded = min(wanted, max(CAP, host))
        self.acted |= bounded < wanted * (1 - 1e-6) or wanted == 0
        return bounded if self.on else wanted

    def may(self, wanted: float, host: float) -> bool:
        reached = 0 < wanted <= REACH * max(1.0, host)
        self.acted |= not reached
        return reached or not self.on


def logs(sigmas) -> list[float]:
    return [-math.log(s) if s > 0 else math.inf for s in map(float, sigmas)]


def one(x, sigma):
    return torch.full((len(x),), float(sigma), dtype=x.dtype)


def dpmpp_2m(model, x, s, host, bounds, noise=None):
    t, u, old = logs(s), logs(host), None
    for i in range(len(s) - 1):
        D = model(x, one(x, s[i]))
        if host[i + 1] == 0:
            return D
        h, target = t[i + 1] - t[i], D
        if old is not None:
            over = bounds.cap(ratio(h, t[i] - t[i - 1]), ratio(u[i + 1] - u[i], u[i] - u[i - 1]))
            target = D + over / 2 * (D - old)
        x, old = math.exp(-h) * x - math.expm1(-h) * target, D
    return x


def phis(h: float) -> tuple[float, float]:
    """phi_2 and phi_3 of k-diffusion's SDE rules."""
    if h < 1e-4:
        return h / 2, -h / 6
    phi_2 = math.expm1(-h) / h + 1
    return phi_2, phi_2 / h - 0.5


def added(h, s_next, eta, s_noise, noise):
    return noise(0, 0) * s_next * math.sqrt(-math.expm1(-2 * eta * h)) * s_noise if eta else 0


def dpmpp_2m_sde(model, x, s, host, bounds, noise, eta=1.0, s_noise=1.0, solver_type="midpoint"):
    t, u, old = logs(s), logs(host), None
    for i in range(len(s) - 1):
        D = model(x, one(x, s[i]))
        if host[i + 1] == 0:
            return D
        h = t[i + 1] - t[i]
        reach = h * (1 + eta)
        x = math.exp(-reach) * x - math.expm1(-reach) * D
        if old is not None:
            over = bounds.cap(ratio(h, t[i] - t[i - 1]), ratio(u[i + 1] - u[i], u[i] - u[i - 1]))
            share = -math.expm1(-reach) / 2 if solver_type == "midpoint" else phis(reach)[0]
            x = x + share * over * (D - old)
        x, old = x + added(h, float(s[i + 1]), eta, s_noise, noise), D
    return x


def dpmpp_3m_sde(model, x, s, host, bounds, noise, eta=1.0, s_noise=1.0):
    t, u, past = logs(s), logs(host), []
    for i in range(len(s) - 1):
        D = model(x, one(x, s[i]))
        if host[i + 1] == 0:
            return D
        h, hh = t[i + 1] - t[i], u[i + 1] - u[i]
        reach = h * (1 + eta)
        x = math.exp(-reach) * x - math.expm1(-reach) * D
        phi_2, phi_3 = phis(reach)
        if past:
            h1, hh1 = t[i] - t[i - 1], u[i] - u[i - 1]
            third = len(past) > 1
            if third:
                h2, hh2 = t[i - 1] - t[i - 2], u[i - 1] - u[i - 2]
                third = bounds.may(ratio(h, h1), ratio(hh, hh1)) & bounds.may(
                    ratio(h1, h2), ratio(hh1, hh2)
                )
            if third:
                r0, r1 = h1 / h, h2 / h
                d0, d1 = (D - past[0]) / r0, (past[0] - past[1]) / r1
                bend = (d0 - d1) / (r0 + r1)
                x = x + phi_2 * (d0 + bend * r0) - phi_3 * bend
            else:
                x = x + phi_2 * bounds.cap(ratio(h, h1), ratio(hh, hh1)) * (D - past[0])
        x, past = x + added(h, float(s[i + 1]), eta, s_noise, noise), [D, *past[:1]]
    return x


def lms(model, x, s, host, bounds, noise=None, order=4, lower_order_final=False):
    s, past = [float(each) for each in s], []
    for i in range(len(s) - 1):
        past = [(x - model(x, one(x, s[i]))) / s[i], *past[: order - 1]]
        if lower_order_final and host[i + 1] == 0:
            past = past[:1]
        used = 1
        while used < len(past) and bounds.may(
            ratio(s[i] - s[i + 1], s[i - used] - s[i - used + 1]),
            ratio(host[i] - host[i + 1], host[i - used] - host[i - used + 1]),
        ):
            used += 1
        nodes = [s[i - k] - s[i] for k in range(used)]
        for j in range(used):
            others = [node for k, node in enumerate(nodes) if k != j]
            poly = np.poly1d(others, r=True).integ()
            weight = poly(s[i + 1] - s[i]) / np.prod([nodes[j] - o for o in others])
            x = x + float(weight) * past[j]
    return x


def unipc(model, x, s, host, bounds, noise=None, variant="bh1", order=3):
    """Zhao et al. 2023 with a linear solve, as the authors write it."""
    t, u = logs(s), logs(host)
    n, past, before, used = len(s) - 1, [], None, 0

    def towards(i, x, order, ahead):
        """From step i to i + 1; past[0] is the D of step i."""
        h, hh = t[i + 1] - t[i], u[i + 1] - u[i]
        B = h if variant == "bh1" else -math.expm1(-h)
        out = math.exp(-h) * x - math.expm1(-h) * past[0]
        if h == 0:
            return out
        gaps = [t[i - k] - t[i - k - 1] for k in range(order - 1)]
        host_gaps = [u[i - k] - u[i - k - 1] for k in range(order - 1)]
        if order == 3 and not all(
            [bounds.may(ratio(h, g), ratio(hh, hg)) for g, hg in zip(gaps, host_gaps, strict=True)]
        ):
            order = 2
        if order == 2:
            capped = bounds.cap(ratio(h, gaps[0]), ratio(hh, host_gaps[0]))
            order, gaps = (2, [h / capped]) if capped else (1, [])
        if order == 1:
            return out + (B / 2 * (ahead - past[0]) if ahead is not None else 0)
        nodes = list(-np.cumsum(gaps[: order - 1]) / h)
        terms = [(past[k + 1] - past[0]) / nodes[k] for k in range(order - 1)]
        if ahead is not None:
            nodes, terms = [*nodes, 1.0], [*terms, ahead - past[0]]
        if ahead is None and order == 2:
            rhos = [0.5]
        else:
            size = len(nodes)
            # k! * the integral that belongs to the k-th moment, by quadrature
            grid, weights = np.polynomial.legendre.leggauss(40)
            v = (grid + 1) / 2
            b = [
                float((weights / 2 * (np.exp(-h * (1 - v)) * h) * v ** (k + 1)).sum()) / B
                for k in range(size)
            ]
            matrix = np.array([[node**k for node in nodes] for k in range(size)])
            rhos = np.linalg.solve(matrix, np.array(b))
        return out + B * sum(float(r) * term for r, term in zip(rhos, terms, strict=True))

    for i in range(n):
        D = model(x, one(x, s[i]))
        if before is not None:
            x = towards(i - 1, before, used, D)
        past, before = [D, *past[: order - 1]], x
        if host[i + 1] == 0:
            return D
        used = min(order, i + 1, n - i)
        x = towards(i, x, used, None)
    return x


def res_multistep(model, x, s, host, bounds, noise=None):
    """Zhang et al. 2023, the two-point exponential step with phi_1 and phi_2 of -h."""
    t, u, old = logs(s), logs(host), None
    for i in range(len(s) - 1):
        D = model(x, one(x, s[i]))
        if host[i + 1] == 0:
            return D
        if noise is not None:
            noise(s[i], s[i + 1])  # drawn, not used
        h = t[i + 1] - t[i]
        phi_1 = -math.expm1(-h) / h if h else 1.0
        phi_2 = (1 - phi_1) / h if h else 0.5
        over = 0.0
        if old is not None:
            wanted = ratio(u[i + 1] - u[i], u[i] - u[i - 1])
            over = bounds.cap(ratio(h, t[i] - t[i - 1]), wanted)
        x = math.exp(-h) * x + h * (phi_1 * D + over * phi_2 * (D - (old if over else D)))
        old = D
    return x


def er_sde(model, x, s, host, bounds, noise, s_noise=1.0, max_stage=3):
    """Cui et al. 2023, algorithms 1 to 3 with the authors' sums of 200 points for the integrals."""

    def scale(level):
        return level * (np.exp(level**0.3) + 10)

    s, past = [float(each) for each in s], []
    for i in range(len(s) - 1):
        D = model(x, one(x, s[i]))
        if host[i + 1] == 0:
            return D
        now, after = s[i : i + 2]
        r = scale(after) / scale(now)
        x = r * x + (1 - r) * D
        past = [D, *past[: max_stage - 1]]
        grid = after + np.arange(200) * (now - after) / 200
        width = (now - after) / 200
        dt = after - now
        if len(past) > 1:
            wanted = ratio(host[i] - host[i + 1], host[i - 1] - host[i])
            over, third = ratio(now - after, s[i - 1] - now), False
            if len(past) > 2:
                further = ratio(now - after, s[i - 2] - s[i - 1])
                host_further = ratio(host[i] - host[i + 1], host[i - 2] - host[i - 1])
                third = bounds.may(over, wanted) & bounds.may(further, host_further)
            over = over if third else bounds.cap(over, wanted)
            integral = (1 / scale(grid)).sum() * width
            if over:
                # over / (now - after) is 1 / the remembered step, as far as it may be used
                slope = -(past[0] - past[1]) * over / (now - after)
                x = x + (dt + integral * scale(after)) * slope
            if third:
                before = (past[1] - past[2]) / (s[i - 1] - s[i - 2])
                bend = (slope - before) / ((now - s[i - 2]) / 2)
                integral = ((grid - now) / scale(grid)).sum() * width
                x = x + (dt**2 / 2 + integral * scale(after)) * bend
        if s_noise > 0:
            x = x + noise(now, after) * s_noise * math.sqrt(max(after**2 - (now * r) ** 2, 0))
    return x


WRITTEN = {
    "dpmpp_2m": dpmpp_2m,
    "dpmpp_2m_sde": dpmpp_2m_sde,
    "dpmpp_3m_sde": dpmpp_3m_sde,
    "lms": lms,
    "unipc": unipc,
    "res_multistep": res_multistep,
    "er_sde": er_sde,
}


def dpm_2_a_on_flow(model, x, s, noise):
    """Forge's for Flux: half way to sigma_down in log sigma, and noise up again."""
    s = [float(each) for each in s]
    for now, after in zip(s, s[1:], strict=False):
        d = (x - model(x, one(x, now))) / now
        if after == 0:
            return x + d * (after - now)
        down = after * after / now
        middle = math.sqrt(now * down)
        ahead = x + d * (middle - now)
        x = x + (ahead - model(ahead, one(x, middle))) / middle * (down - now)
        kept = (1 - after) / (1 - down) if down < 1 else 1.0
        up = math.sqrt(max(after**2 - (down * kept) ** 2, 0))
        x = kept * x + up * noise(now, after)
    return x


def lcm(model, x, s, noise, flow=False):
    """D, and noise to the next level."""
    for i in range(len(s) - 1):
        x = model(x, one(x, s[i]))
        if s[i + 1] > 0:
            x = (1 - s[i + 1] if flow else 1) * x + s[i + 1] * noise(s[i], s[i + 1])
    return x


def ddim(model, x, s, noise, eta=0.0):
    """Song et al. 2020, equation 12, in x / sqrt(alpha)."""
    for i in range(len(s) - 1):
        a, b = (1 / (1 + each.double() ** 2) for each in s[i : i + 2])
        up = eta * ((1 - b) / (1 - a) * (1 - a / b)).clamp(min=0).sqrt()
        vp = x * a.sqrt()
        D = model(x, one(x, s[i]))
        noise_part = (vp - a.sqrt() * D) / (1 - a).sqrt()
        vp = b.sqrt() * D + (1 - b - up**2).clamp(min=0).sqrt() * noise_part
        if eta and s[i + 1] > 0:
            vp = vp + up * noise(s[i], s[i + 1])
        x = vp / b.sqrt()
    return x
