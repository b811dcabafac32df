"""Tables of the world in which the context tells, of docs/auroras.md."""

from __future__ import annotations

from readme_cells import change, level, number, table, world_of

from asyndm.bench.flaws import KINDS
from asyndm.bench.scenes import DRAWN

NAMES = {
    "synchronous": "synchronous",
    "concave": "concave for all",
    "asyndm": "AsynDM, dynamic masks",
    "asyndm fixed": "AsynDM, fixed masks",
    "oracle": "the true objects as mask",
    "reverse": "reverse: all but the true objects slow",
    DRAWN: "drawn scenes, not the network's: the most that is judged right",
    "asyndm levelled": "AsynDM, levelled norms",
    "asyndm learned": "AsynDM, the learned clock",
}


def named(arm: str) -> str:
    """An arm in words, with its k."""
    method, _, rest = arm.partition(":")
    values = dict(part.split("=") for part in filter(None, rest.split(",")))
    for key in ("mask_source", "norms", "curve"):
        method += f" {values[key]}" if key in values else ""
    k = values.get("curvature") if "curve" not in values else None
    return NAMES[method] + (f", k {k.removeprefix('0')}" if k else "")


SHOWN = ((852, 681), (852, 580), (852, 470), (772, 580), (772, 470), (681, 470), (681, 356),
         (580, 470))  # fmt: skip
# The levels between 850 and 600, with a background about 30% and about 45% lower.
POOLED = {
    "three levels pooled, a background about 30% lower": ((852, 580), (772, 580), (681, 470)),
    "and about 45% lower": ((852, 470), (772, 470), (681, 356)),
}


def told_by_context(report: dict) -> str:
    """What a clearer background does to objects' error where it tells of them and where not."""
    both = [
        {(row["t_object"], row["t_background"]): row for row in report[name]}
        for name in ("coupled", "uncoupled")
    ]
    rows = []
    for pair in SHOWN:
        one, two = (100 * each[pair]["change"] for each in both)
        reach = 196 * sum(each[pair]["se"] ** 2 for each in both) ** 0.5
        cells = [str(level) for level in pair] + [f"{one:+.1f}", f"{two:+.1f}"]
        rows.append([*cells, f"{one - two:+.1f} (+-{reach:.1f})"])
    for name, pairs in POOLED.items():
        one, two = (
            100 * sum(each[pair]["error"] for pair in pairs)
            / sum(each[t, t]["error"] for t, _ in pairs) - 100
            for each in both
        )  # fmt: skip
        rows.append([name, "", f"{one:+.1f}", f"{two:+.1f}", f"{one - two:+.1f}"])
    head = [
        f"{world_of(report)}, object at",
        "background at",
        "coupling 1",
        "coupling 0",
        "difference",
    ]
    return table(head, rows)


def worlds(report: dict) -> str:
    """Right, the paired difference, and what is wrong, by arm and coupling."""
    rows = []
    for row in report["rows"]:
        cells = [f"{row['coupling']:g}", named(row["arm"]), level(row["right"], 3)]
        cells.append(change(row["right_difference"], 3, with_p=True))
        cells += [number(row["failures"][kind], 3) for kind in KINDS]
        cells += [number(row["right_seen"], 3), number(row["right_held_out"], 3)]
        cells.append(change(row["right_held_out_difference"], 3))
        rows.append([*cells, f"{row['sharpness']['value']:.1f}"])
    head = ["coupling", f"{world_of(report)}, n = {report['images_an_arm']}", "prompt fully right",
            "against synchronous", *KINDS, "right, seen", "held out",
            "held out, against synchronous", "sharpness"]  # fmt: skip
    return table(head, rows) + "\n\n" + _says(report)


def _says(report: dict) -> str:
    """Which arms differ, and what the coupling does to synchronous pictures and to differences."""
    rows = [row for row in report["rows"] if row["arm"] != DRAWN]  # a ceiling is no method
    apart = [
        f"{named(row['arm'])} at coupling {row['coupling']:g} ({change(difference, 3)})"
        for row in rows
        if (difference := row["right_difference"]) and difference["low"] * difference["high"] > 0
    ]
    plain = {row["coupling"]: row["right"]["value"] for row in rows
             if row["arm"] == report["baseline"]}  # fmt: skip
    several = len(apart) > 1
    said = f"The interval{'s' if several else ''} of {' and '.join(apart) or 'no arm'}"
    said += f" exclude{'' if several else 's'} 0, uncorrected."
    levels = ", ".join(f"{number(plain[c], 3)} at {c:g}" for c in sorted(plain))
    said += f" Synchronous pictures are right by coupling: {levels}."
    slopes = "; ".join(
        f"{named(arm)} {change(slope, 3)}"
        for arm, slope in report["dose_response"].items()
        if arm != DRAWN
    )
    return f"{said} The difference to them changes from coupling 0 to 1 by: {slopes}."


def tuned(report: dict) -> str:
    """What `bench tune` found on development prompts, and what was left of it on fresh ones."""
    values, confirmed, rows = report["values"], report["confirmed"], []
    for arm, found in report["arms"].items():
        given_up = sum(trial["given_up"] for trial in found["trials"])
        fresh = confirmed["arms"][arm]
        rows.append([
            arm, f"{len(found['trials'])}, {given_up}", f"{found['rows']:,}", _found(arm, found),
            number(found["value"], 3, "+"), _with_p(fresh),
        ])  # fmt: skip
    head = [world_of(report), "trials, given up", "network rows", "found",
            f"right against plain guidance, {values['limit']} development prompts",
            f"{values['fresh']} fresh prompts"]  # fmt: skip
    says = f"Plain guidance: {level(confirmed['baseline'], 3)} fully right on the fresh prompts."
    if own := confirmed.get("adaptive"):
        kept = "so it is kept" if own["kept"] else "so it is not kept"
        says += f" *adaptive* minus *constant* there: {_with_p(own)}, {kept}."
    return f"{table(head, rows)}\n\n{says}"


def _with_p(cell: dict) -> str:
    return change({**cell, "p_value": cell["p"]}, 3, with_p=True)


def _found(arm: str, found: dict) -> str:
    """In words; a profile by its lags."""
    values = found["parameters"]
    if "k" in values or "w" in values:
        return ", ".join(f"{name} {value:.3g}" for name, value in values.items())
    if arm == "adaptive":
        rule = dict(part.split("=") for part in found["method"].partition(":")[2].split(","))
        a, b, c, centre = (number(float(rule[name]), 2) for name in ("a", "b", "c", "centre"))
        spread = number(float(rule["spread"]), 3)
        return f"k = {a} + {b} (objects - 2) + {c} (share - {centre}) / {spread}"
    return "lags " + ", ".join(f"{value:.2g}" for value in values.values())
