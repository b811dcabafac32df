"""The README's tables of levelled norms: the prediction, where they act, fine-tuning, the cost."""

from __future__ import annotations

from readme_cells import change, number, percent, table, world_of

from asyndm.bench.repaint_arms import REACHES

LEADS = "region slow, k .9, context leads .5, levelled norms"
LEAD = ", context leads .5"
HOST = ", levelled norms"  # what the arm of the host's norms is without
EVERYWHERE = "everywhere"


def norms(report: dict) -> str:
    """The change of the prediction's error by two noise levels, under host's and levelled norms."""
    arms = ("host", "scaled", "shifted", "scaled, objects only")
    pairs = [(850, 468), (700, 385), (500, 275), (300, 165), (500, 0)]
    found = {(r["norms"], r["t_object"], r["t_background"]): r for r in report["rows"]}
    rows = [
        [
            arm,
            *(percent(found[(arm, *pair)]["objects"]) for pair in pairs),
            percent(found[arm, 850, 468]["background"]),
        ]
        for arm in arms
    ]
    head = [
        f"norms, {report['scenes']} scenes of {world_of(report)}",
        *(f"objects {a}/{b}" for a, b in pairs),
    ]
    own = {(r["norms"], r["t_object"]): r["objects"]["change"] for r in report["tables"]}
    tables = "; ".join(
        f"{name.removeprefix('table of ')} {own[name, 500]:+.0%}"
        for name in dict.fromkeys(row["norms"] for row in report["tables"])
    )
    return f"{table([*head, 'background 850/468'], rows)}\n\nObjects at 500/275 by table: {tables}."


def reaches(report: dict) -> dict[str, float]:
    """Where norms are levelled -> the share that is right where the context leads by half."""
    right = {row["method"]: row["right"]["value"] for row in report["rows"]}
    return {told.removeprefix(", ") or EVERYWHERE: right[LEADS + told] for told in ("", *REACHES)}


def reach_grid(report: dict) -> str:
    """One sentence: what was chosen on development pictures, and from what."""
    shares = reaches(report)
    listed = ", ".join(f"{name} {number(share, 3)}" for name, share in shares.items())
    return (
        f"On {report['pictures']} development pictures of {world_of(report)}, right where the "
        f"context leads by half: {listed}. Chosen: *{max(shares, key=shares.get)}*."
    )


def beside(cell: dict, what: str) -> str:
    """Whether a paired difference is shown, in words."""
    if cell["low"] > 0:
        said = f"more pictures are right than {what}"
    elif cell["high"] < 0:
        said = f"fewer pictures are right than {what}"
    else:
        said = f"neither more nor fewer pictures are shown to be right than {what}"
    return f"{said} ({change(cell, 3)})"


def reach_says(report: dict) -> str:
    """What the chosen reach did on fresh pictures, beside levelling everywhere."""
    row = next(r for r in report["rows"] if "right_difference_to_everywhere" in r)
    told = row["method"].removeprefix(f"{LEADS}, ")
    cell = row["right_difference_to_everywhere"]
    return f"Confirmed on fresh ones: with *{told}* {beside(cell, 'with everywhere')}."


def mixed_says(report: dict) -> str:
    """What levelled norms and the fine-tune give together, at the usual disparity and beyond."""
    rows = {row["method"]: row for row in report["rows"]}
    slow, leads, host = (
        rows[name] for name in (LEADS.replace(LEAD, ""), LEADS, LEADS.removesuffix(HOST))
    )
    says = [beside(row["right_difference"], "by plain inpainting") for row in (slow, leads, host)]
    with_lead, without = (number(row["right"]["value"], 3) for row in (leads, slow))
    return (
        f"So where the context leads by half {says[1]}, {with_lead} beside {without} of a slow "
        f"region alone. With the host's norms in the same weights {says[2]}."
    )


def mixed_host_says(report: dict) -> str:
    """What the fine-tune gives alone, and what levelled norms add where the context leads."""
    row = next(r for r in report["rows"] if r["method"] == LEADS.removesuffix(HOST))
    return (
        f"So by the fine-tune alone {beside(row['right_difference'], 'by plain inpainting')}; "
        f"against a slow region alone the lead makes {change(report['lead_less_slow'], 3, True)}. "
        "Levelled norms in training and drawing less the host's in both, where the context leads: "
        f"{change(report['levelled_less_host_where_the_context_leads'], 3, True)}."
    )


def norm_cost(report: dict) -> str:
    """Time, peak memory and operations beside the host's norms, by size."""
    rows = []
    for size, found in report["sizes"].items():
        low, high = found["time_ratio_interval"]
        time = f"{found['time_ratio']:.3f} ({low:.3f} to {high:.3f}; {found['pairs']} pairs)"
        memory, operations = found["peak_memory_ratio"], found["operations_ratio"]
        rows.append([size, time, f"{memory:.3f}", f"{operations:.4f}"])
    return table(["latents", "time", "peak memory", "operations"], rows)
