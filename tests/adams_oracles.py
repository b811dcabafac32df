"""Samplers of Forge's and reForge's that k-diffusion lacks, as in ``rule_oracles``.

On a real host they are held against its own functions.
"""

from __future__ import annotations

import math

import numpy as np
from rule_oracles import REACH, one, ratio


def falls(s, host, i, most, bounds, may=None) -> int:
    """The order of step i of an Adams-Bashforth rule: back to the first step that is too short."""
    used = 1
    while used < min(most, i + 1):
        gaps = [(e[i] - e[i + 1], e[i - used] - e[i - used + 1]) for e in (s, host)]
        if not bounds.may(ratio(*gaps[0]), ratio(*gaps[1])):
            break
        if may is not None and not may(used + 1, *(ratio(*each) for each in gaps)):
            bounds.acted = True
            if bounds.on:
                break
        used += 1
    return used


def ipndm(model, x, s, host, bounds, noise=None, max_order=4, lower_order_final=False):
    """Zhang and Chen 2022: the weights of equal steps; no step that is too long either."""
    weights = {
        1: [1],
        2: [1.5, -0.5],
        3: [23 / 12, -4 / 3, 5 / 12],
        4: [55 / 24, -59 / 24, 37 / 24, -3 / 8],
    }
    s, d = [float(each) for each in s], []
    for i in range(len(s) - 1):
        d = [(x - model(x, one(x, s[i]))) / s[i], *d]
        used = falls(
            s, host, i, max_order, bounds, lambda _, own, theirs: own * REACH >= min(1.0, theirs)
        )
        if lower_order_final and host[i + 1] == 0:
            used = 1
        x = x + (s[i + 1] - s[i]) * sum(w * each for w, each in zip(weights[used], d, strict=False))
    return x


def ipndm_v(model, x, s, host, bounds, noise=None, max_order=4, lower_order_final=False):
    """The weights of diff-sampler's code: as divided differences, each with the code's factor."""
    s, d = [float(each) for each in s], []

    def even(i):
        """Whether three remembered steps grow evenly."""

        def growth(e):
            steps = [e[i - k - 1] - e[i - k] for k in range(3)]
            return [ratio(steps[0], steps[1]), ratio(steps[1], steps[2])]

        own, theirs = growth(s), growth(host)
        return abs(own[0] / own[1] - 1) <= max(0.1, REACH * abs(theirs[0] / theirs[1] - 1))

    for i in range(len(s) - 1):
        d = [(x - model(x, one(x, s[i]))) / s[i], *d]
        used = falls(s, host, i, max_order, bounds, lambda n, *_, i=i: n < 4 or even(i))
        if lower_order_final and host[i + 1] == 0:
            used = 1
        h = [s[i] - s[i + 1], *(s[i - k - 1] - s[i - k] for k in range(used - 1))]
        slope = d[0]
        if used > 1:
            slope = slope + h[0] / h[1] / 2 * (d[0] - d[1])
        if used > 2:
            difference = (d[0] - d[1]) - h[1] / h[2] * (d[1] - d[2])
            slope = slope + (1 - h[0] ** 2 / (3 * h[1] * (h[1] + h[2]))) / 2 * difference
        if used > 3:
            p, q = h[0] + h[1], h[0] + h[1] + h[2]
            factor = (1 - h[0] / (3 * p)) / 2 + (1 - h[0] / (2 * p)) * h[0] / (6 * q)
            factor *= h[0] * p * q / (h[1] * (h[1] + h[2]) * (h[1] + h[2] + h[3]))
            far = h[1] * (h[1] + h[2]) / (h[2] * (h[2] + h[3]))
            near = h[1] / h[2]
            further = far * (d[1] - (1 + h[2] / h[3]) * d[2] + near * d[3])
            slope = slope + factor * (d[0] - d[1] - near * (d[1] - d[2]) - further)
        x = x + (s[i + 1] - s[i]) * slope
    return x


def deis(model, x, s, host, bounds, noise=None, max_order=3):
    """Zhang and Chen 2022, tAB, by the authors' sums of points even in time."""
    low, high = math.log1p(0.002**2), math.log1p(80.0**2)
    bend = 2 * (low / 1e-3 - high) / (1e-3 - 1)
    first = high - bend / 2

    def time(level):
        return (math.sqrt(first**2 + 2 * bend * math.log1p(level**2)) - first) / bend

    s, d = [float(each) for each in s], []
    t, u = [time(each) for each in s], [time(each) for each in host]
    for i in range(len(s) - 1):
        d = [(x - model(x, one(x, s[i]))) / s[i], *d]
        used = falls(t, u, i, max_order, bounds) if host[i + 1] > 0 else 1
        if used == 1:
            x = x + (s[i + 1] - s[i]) * d[0]
            continue
        edges = np.linspace(t[i], t[i + 1], 20001)
        middles = (edges[1:] + edges[:-1]) / 2
        change = np.diff(np.sqrt(np.expm1(bend * edges**2 / 2 + first * edges)))
        for j in range(used):
            others = [t[i - k] for k in range(used) if k != j]
            poly = np.prod([(middles - o) / (t[i - j] - o) for o in others], axis=0)
            x = x + float((change * poly).sum()) * d[j]
    return x


def ddpm_vp(model, x, s, noise):
    """Ho et al. 2020, algorithm 2 with the variance of equation 7, in x / sqrt(alpha)."""
    for i in range(len(s) - 1):
        a, b = (1 / (1 + each.double() ** 2) for each in s[i : i + 2])
        eps = (x - model(x, one(x, s[i]))) / s[i]
        x = (b / a).sqrt() * (x * a.sqrt() - (1 - a / b) / (1 - a).sqrt() * eps)
        if s[i + 1] > 0:
            x = x + ((1 - a / b) * (1 - b) / (1 - a)).sqrt() * noise(s[i], s[i + 1])
        x = x / b.sqrt()
    return x


WRITTEN = {"ipndm": ipndm, "ipndm_v": ipndm_v, "deis": deis}
