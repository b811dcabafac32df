"""The README's table of guidance methods: rows, operations and time, and what differs."""

from __future__ import annotations

from readme_cells import number, table

# (name, source, how it differs from its paper here, and why) of every method of guidance
GUIDANCE = {
    "cfg": (
        "CFG",
        "the host's own",
        "none",
    ),
    "s-cfg": (
        "S-CFG",
        "[2404.05384](https://arxiv.org/abs/2404.05384)",
        "any size, not squares alone; attention is spread by (S + 3 S²) / 4, as the "
        "authors' code does, not their formula; norms are taken of what the network says, "
        "so that a slow region is not told by its clock; parts of an `AND` share one map of"
        " regions",
    ),
    "seg": (
        "SEG",
        "[2408.00760](https://arxiv.org/abs/2408.00760)",
        "any size: each side has its own kernel; the third prediction is a call of its own",
    ),
    "pag": (
        "PAG",
        "[2403.17377](https://arxiv.org/abs/2403.17377)",
        "none: all self-attentions of the middle",
    ),
    "tpg": (
        "TPG",
        "[2506.10036](https://arxiv.org/abs/2506.10036)",
        "all blocks on the way down (the authors' pipeline, for SDXL: the last 18 of 24); one order"
        " a step and block, for all images, so that none depends on its batch",
    ),
    "apg": (
        "APG",
        "[2410.02416](https://arxiv.org/abs/2410.02416)",
        "none; defaults: its values for SDXL as others cite them (diffusers: eta 1, no momentum)",
    ),
    "cfg++": (
        "CFG++",
        "[2406.08070](https://arxiv.org/abs/2406.08070)",
        "each pixel is renoised at its own level; DPM++ 2M has AsynDM's cap; no negative "
        "prompt of its own; flow models: renoised with the unconditional *noise*, w = λ (1 "
        "- s') / (1 - s'/s)",
    ),
    "cfg++w": (
        "CFG++ by weight",
        "the same",
        "CFG with w = λ / (1 - σ_down/σ) of the host's own step, for any sampler; one with "
        "the form above where all pixels share a clock",
    ),
    "zigzag": (
        "Z-Sampling",
        "[2412.10891](https://arxiv.org/abs/2412.10891)",
        "the inversion is exact, where the published one is an index off in its own library"
        " version; zigzags add no noise; w is the host's; g2 = 0 needs no row with the "
        "prompt (hosts run it all the same: 6 rows)",
    ),
}


def guidance(report: dict) -> str:
    """Every method: rows, operations, time where any was timed, how it differs from its paper."""
    times = any("time_ratio" in one for each in report["methods"].values() for one in each.values())
    rows = []
    for key, found in report["methods"].items():
        name, source, differs = GUIDANCE[key]
        alone, both = found["synchronous"], found["asynchronous"]
        each = alone["rows"] / report["steps"]
        cells = [name, source, number(each, 0 if each == int(each) else 1)]
        cells.append(f"{alone['operations_ratio']:.3f}, {both['operations_ratio']:.3f}")
        if times:
            cells += [_time(alone), _time(both)]
        rows.append([*cells, differs])
    head = ["method", "source", "rows a step", "operations, alone and with AsynDM"]
    head += ["time, alone", "time, with AsynDM"] * times
    made = table([*head, "differs from its paper"], rows)
    return f"{made}\n\n{_times_say(report)}" if times else made


def _time(one: dict) -> str:
    """A ratio with its interval, or that there is none."""
    if "time_ratio" not in one:
        return "not timed"
    low, high = one["time_ratio_interval"]
    return f"{one['time_ratio']:.2f} ({low:.2f} to {high:.2f})"


def _times_say(report: dict) -> str:
    """What the times are of, and how many of their intervals hold the operations' ratio."""
    every = [one for each in report["methods"].values() for one in each.values()]
    timed = [one for one in every if "time_ratio" in one]
    pairs = sorted({one["pairs"] for one in timed})
    hold = [
        one["time_ratio_interval"][0] <= one["operations_ratio"] <= one["time_ratio_interval"][1]
        for one in timed
    ]
    kind = "a CPU" if report["device"] == "cpu" else report["device"]
    where = f"{report['machine']}, " if "machine" in report else f"{kind}, "
    threads = report["threads"]
    where += f"{threads} thread{'s' * (threads > 1)}, torch {report['torch']}"
    size = "x".join(map(str, report["timed"]))
    each = f"{pairs[0]} to {pairs[-1]}" if len(pairs) > 1 else str(pairs[0])
    what = f"{len(timed)} of {len(every)}" if len(timed) < len(every) else f"all {len(every)}"
    return (
        f"Time: a run's, against plain CFG with one clock, 95% interval; {each} pairs of runs "
        f"each, {size} latents ({where}; docs/guidance.json). Timed are {what}; {sum(hold)} of "
        "their intervals hold the ratio of the operations."
    )
