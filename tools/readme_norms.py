"""The README's tables of levelled norms: the prediction, where they act, fine-tuning, the cost."""

from __future__ import annotations

from collections.abc import Callable

from readme_cells import number, percent, table

from asyndm.bench.repaint_arms import REACHES

# An arm of `bench repaint` without what its name says of a reach -> as the README calls it.
LEVELLED = (
    "region slow, k .9, levelled norms",
    "region slow, k .9, context leads .5, levelled norms",
)
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
    head = [f"norms, {report['scenes']} scenes", *(f"objects {a}/{b}" for a, b in pairs)]
    own = {(r["norms"], r["t_object"]): r["objects"]["change"] for r in report["tables"]}
    tables = "; ".join(
        f"{name.removeprefix('table of ')} {own[name, 500]:+.0%}"
        for name in dict.fromkeys(row["norms"] for row in report["tables"])
    )
    return f"{table([*head, 'background 850/468'], rows)}\n\nObjects at 500/275 by table: {tables}."


def chosen_reach(report: dict) -> dict[str, float]:
    """Where norms are levelled -> the share that is right, of both levelled arms together."""
    right = {row["method"]: row["right"]["value"] for row in report["rows"]}
    return {
        told.removeprefix(", ") or EVERYWHERE: sum(right[arm + told] for arm in LEVELLED) / 2
        for told in ("", *REACHES)
    }


def reach_grid(report: dict) -> str:
    """One sentence: what was chosen on development pictures, and from what."""
    shares = chosen_reach(report)
    listed = ", ".join(f"{name} {number(share, 3)}" for name, share in shares.items())
    return (
        f"On {report['pictures']} development pictures, right in both levelled arms together: "
        f"{listed}. Chosen: *{max(shares, key=shares.get)}*."
    )


def mixed(report: dict, arms: Callable[[dict], str]) -> str:
    """A table for each fine-tuned network."""
    return "\n\n".join(
        f"Fine-tuned with {name} norms, {run['training_steps']} steps:\n\n{arms(run)}"
        for name, run in report.items()
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
