"""ComfyUI's samplers, written down for one list of noise levels from their papers, in floats.

As in ``rule_oracles``: with the bounds in writing where a rule looks back.
"""

from __future__ import annotations

import math

import numpy as np
from rule_oracles import added, logs, one, ratio


def res_multistep_a(model, x, s, host, bounds, noise, eta=1.0, s_noise=1.0):
    """The two-point exponential step down to sigma_down, and noise up to the next level."""

    def split(now, after):
        up = min(after, eta * math.sqrt(max(after**2 * (now**2 - after**2) / now**2, 0)))
        return math.sqrt(after**2 - up**2), up

    s, old, last, host_last = [float(each) for each in s], None, 0.0, 0.0
    for i in range(len(s) - 1):
        D = model(x, one(x, s[i]))
        if host[i + 1] == 0:
            return D
        (down, up), (host_down, _) = split(*s[i : i + 2]), split(*host[i : i + 2])
        h, hh = math.log(s[i] / down), math.log(host[i] / host_down)
        x = math.exp(-h) * x - math.expm1(-h) * D
        over = bounds.cap(ratio(h, last), ratio(hh, host_last)) if old is not None else 0.0
        if over:
            c2 = -1 / over  # where the remembered D is, in steps from here
            x = x + (math.expm1(-h) + h) / h / c2 * (old - D)
        x, old, last, host_last = x + noise(0, 0) * s_noise * up, D, h, hh
    return x


def sa_solver(
    model, x, s, host, bounds, noise, tau=1.0, start_sigma=math.inf, end_sigma=0.0, s_noise=1.0,
    predictor_order=3, corrector_order=4, last_step=True, again=False,
):  # fmt: skip
    """Xue et al. 2023, equations 14 to 18: Lagrange's polynomial of D under the SDE's weight."""
    t, u, s, n = logs(s), logs(host), [float(each) for each in s], len(s) - 1
    grid, weights = np.polynomial.legendre.leggauss(40)
    falls, before, thrown, power = host[-1] == 0, None, 0.0, 0.0
    D = [None] * n

    def towards(i, x, nodes):
        """From level i - 1 to level i by the D of these steps, the newest first."""
        m, h = 1 + power**2, t[i] - t[i - 1]
        kept = 2 if nodes[0] == i else 1
        kept = min(kept, len(nodes)) if h else 1
        while (
            h
            and kept < len(nodes)
            and bounds.may(
                ratio(h, t[nodes[kept - 1]] - t[nodes[kept]]),
                ratio(u[i] - u[i - 1], u[nodes[kept - 1]] - u[nodes[kept]]),
            )
        ):
            kept += 1
        nodes = nodes[:kept]
        at = t[i - 1] + (grid + 1) / 2 * h
        weight = weights / 2 * h * m * np.exp(-m * (t[i] - at))
        out = math.exp(-m * h) * x
        for k in nodes:
            others = [(at - t[j]) / (t[k] - t[j]) for j in nodes if j != k]
            out = out + float((weight * np.prod(others, axis=0)).sum()) * D[k]
        return out

    for i in range(n):
        D[i] = model(x, one(x, s[i]))
        if i and (host[i + 1] > 0 or again):
            order = min(corrector_order, i + 1, n - i if falls else n)
            x = towards(i, before, list(range(i, i - order, -1))) + thrown
            D[i] = model(x, one(x, s[i])) if again else D[i]
        if host[i + 1] == 0:
            return D[i]
        if i == n - 1 and not last_step:
            return x
        order = min(predictor_order, i + 1, n - 1 - i if falls else n)
        power = tau if start_sigma >= host[i + 1] >= end_sigma else 0.0
        before, thrown = x, 0.0
        x = towards(i + 1, x, list(range(i, i - order, -1)))
        if power > 0 and s_noise > 0:
            thrown = added(t[i + 1] - t[i], s[i + 1], power**2, s_noise, noise)
            x = x + thrown
    return x


def sa_solver_pece(model, x, s, host, bounds, noise, **options):
    return sa_solver(model, x, s, host, bounds, noise, again=True, **options)


def gradient_estimation(model, x, s, noise, ge_gamma=2.0):
    """Permenter and Yuan 2023: a step along gamma * e_t + (1 - gamma) * e_{t+1}."""
    before = None
    for i in range(len(s) - 1):
        D = model(x, one(x, s[i]))
        e = (x - D) / s[i]
        if s[i + 1] == 0:
            return D
        along = e if before is None else ge_gamma * e + (1 - ge_gamma) * before
        x, before = x - (s[i] - s[i + 1]) * along, e
    return x


def seeds(model, x, s, noise, parts, eta=1.0, s_noise=1.0):
    """Gonzalez et al. 2023: the SDE's linear part and noise exactly, D as a line in log sigma.

    Of two stages D is the inner call's; of three a line through the first and the newest one.
    """
    grid, weights = np.polynomial.legendre.leggauss(30)
    v, weights = (grid + 1) / 2, weights / 2
    for i in range(len(s) - 1):
        D = first = model(x, one(x, s[i]))
        if s[i + 1] == 0:
            return D
        h = math.log(s[i] / s[i + 1])
        ends = [*parts, 1.0]
        draws = [noise(0, 0) for _ in ends] if eta > 0 and s_noise > 0 else []
        for j, end in enumerate(ends):
            reach = (1 + eta) * h * end
            out = math.exp(-reach) * x
            if j and len(parts) > 1:
                # the newest call was at ends[j - 1]; v goes from the start of the step to this end
                kernel = weights * reach * np.exp(-reach * (1 - v))
                slope = float((kernel * v * end / ends[j - 1]).sum())
                out = out + float(kernel.sum()) * first + slope * (D - first)
            else:
                out = out - math.expm1(-reach) * D
            level = float(s[i]) * math.exp(-h * end)
            for k, drawn in enumerate(draws[: j + 1]):
                way = ends[k] - (ends[k - 1] if k else 0.0)
                kept = math.exp(-eta * h * (end - ends[k]))
                out = (
                    out
                    + s_noise * level * kept * math.sqrt(-math.expm1(-2 * eta * h * way)) * drawn
                )
            if j < len(parts):
                D = model(out, one(x, level))
        x = out
    return x


def seeds_2(model, x, s, noise, **options):
    return seeds(model, x, s, noise, (1 / 2,), **options)


def seeds_3(model, x, s, noise, **options):
    return seeds(model, x, s, noise, (1 / 3, 2 / 3), **options)


WRITTEN = {
    "res_multistep_a": res_multistep_a,
    "sa_solver": sa_solver,
    "sa_solver_pece": sa_solver_pece,
}
# Those that look back by no bound.
PLAIN = {"gradient_estimation": gradient_estimation, "seeds_2": seeds_2, "seeds_3": seeds_3}
