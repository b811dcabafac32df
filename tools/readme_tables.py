"""The tables of what is measured, from the files that the benches wrote.

``python tools/readme_tables.py`` writes them into README.md and docs/auroras.md, each between its
marks ``<!-- measured: NAME -->`` and ``<!-- end -->``; ``--print`` only prints them. A test
compares.
A bench's file is made small by ``--take FILE NAME``: docs/NAME.json, one row a line; ``--machine``
adds what it was measured on, where the file does not say.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tools")]

from readme_cells import change, level, number, p_value, table, world_of  # noqa: E402
from readme_guidance import guidance  # noqa: E402
from readme_norms import (  # noqa: E402
    LEADS,
    mixed_host_says,
    mixed_says,
    norm_cost,
    norms,
    reach_grid,
    reach_says,
)
from readme_worlds import told_by_context, tuned, worlds  # noqa: E402

from asyndm.bench.flaws import KINDS  # noqa: E402
from asyndm.bench.repaint_arms import REACHES  # noqa: E402
from asyndm.network import context_claim as claim  # noqa: E402

NAMES = {
    "plain inpainting": "plain",
    "region slow, k .9": "**region slow**",
    "concave for all, k .9": "concave for all",
    "context slow, k .9": "reverse: the kept part slow",
    "context leads .5": "context leads by half",
    "region slow, k .5": "region slow, k .5",
    "region slow, k .5, context leads .5": "region slow, k .5, context leads by half",
    "context clean": "context clean from the start",
    "region slow, k .9, levelled norms": "region slow, levelled norms",
    "region slow, k .9, context leads .5": "region slow, context leads by half",
    "region slow, k .9, context leads .5, levelled norms": "the same, levelled norms",
}
# Where no arm of the host's norms stands above it.
ALONE = {**NAMES, **{f"{LEADS}{told}": f"leads, levelled norms{told}" for told in ("", *REACHES)}}
PLAIN, CONCAVE, SLOW = "plain inpainting", "concave for all, k .9", "region slow, k .9"


def arms(report: dict, names: dict[str, str] = NAMES) -> str:
    """Right, both paired differences, the kinds of failure, seam and sharpness of every arm."""
    beside = {"against plain": "right_difference"}
    if any("right_difference_to_concave" in row for row in report["rows"]):
        beside["against concave"] = "right_difference_to_concave"
    rows = [
        [
            names[row["method"]],
            level(row["right"], 3),
            *(change(row.get(difference), 3, with_p=True) for difference in beside.values()),
            *(number(row[kind]["value"], 3) for kind in KINDS),
            number(row["seam"]["value"], 2),
            number(row["sharpness"]["value"], 1),
        ]
        for row in report["rows"]
    ]
    head = [f"{world_of(report)}, n = {report['pictures']}", "prompt fully right", *beside, *KINDS]
    return table([*head, "seam", "sharpness"], rows)


def reach(report: dict) -> str:
    """Levelled norms where they were chosen to act, beside everywhere."""
    return f"{arms(report, ALONE)}\n\n{reach_says(report)}"


def mixed(report: dict) -> str:
    """A network that was fine-tuned with levelled norms on mixed noise."""
    return f"{arms(report, ALONE)}\n\n{mixed_says(report)}"


def mixed_host(report: dict) -> str:
    """The same fine-tune with the host's norms throughout."""
    return f"{arms(report)}\n\n{mixed_host_says(report)}"


def repaint(report: dict) -> str:
    """The first table, and what it shows in one sentence."""
    rows = {row["method"]: row for row in report["rows"]}
    slow, concave = rows[SLOW], rows[CONCAVE]
    least = min(slow["right_difference"]["low"], slow["right_difference_to_concave"]["low"])
    alone = concave["right_difference"]
    verdict = (
        "a slow region follows the prompt more often than plain inpainting and than one slow clock "
        "for the whole picture"
        if least > 0
        else "a slow region is not shown to follow the prompt more often than both controls"
    )
    says = (
        "that clock alone brings a gain too"
        if alone["low"] > 0
        else f"that clock alone brings nothing that {report['pictures']} pictures could show "
        f"({change(alone, 3)})"
    )
    return f"{arms(report)}\n\nSo here {verdict}; {says}."


def lead(report: dict) -> str:
    """The older table, with a context that leads."""
    rows = [
        [
            "region slow, k .9" if row["method"] == SLOW else NAMES[row["method"]],
            number(row["right"]["value"], 3),
            change(row.get("right_difference"), 3, with_p=True),
            ", ".join(
                filter(
                    None, [number(row["seam"]["value"], 2), change(row.get("seam_difference"), 2)]
                )
            ),
        ]
        for row in report["rows"]
    ]
    first = f"{world_of(report)}, n = {report['pictures']}"
    return table([first, "prompt fully right", "against plain", "seam"], rows)


def grid(report: dict) -> str:
    """One line: the share that is right at every k, on development pictures."""
    shares = ", ".join(
        f"k {row['method'].removeprefix('region slow, k ')} {number(row['right']['value'], 3)}"
        for row in report["rows"]
        if row["method"] != PLAIN
    )
    plain = next(row for row in report["rows"] if row["method"] == PLAIN)
    return (
        f"On {report['pictures']} development pictures of {world_of(report)}: "
        f"plain {number(plain['right']['value'], 3)}, {shares}."
    )


def distortion(report: dict) -> str:
    """The table, and the ways of spoiling."""
    ways = "; ".join(
        f"{name} ({group['pictures']}): before {number(group['before'], 2)}, "
        f"plain {number(group[PLAIN], 2)}, slow {number(group[SLOW], 2)}"
        for name, group in report["groups"].items()
    )
    slow = next(row for row in report["rows"] if row["method"] == SLOW)["right_difference"]
    verdict = (
        "a slow region repairs more of them than plain inpainting"
        if slow["low"] > 0
        else "plain inpainting repairs more of them than a slow region"
        if slow["high"] < 0
        else "no gain is shown by a slow region, and no loss"
    )
    says = f"So here {verdict} ({change(slow, 3)})"
    return f"{arms(report)}\n\n{says}. Right by way of spoiling: {ways}."


def context(report: dict) -> str:
    """What the map allows to say, and the change above 850 by mask."""
    steps, pictures = report["steps"], report["pictures"]
    rows = {"true": report["objects"], **report["controls"]}
    above = {name: claim.high_change(given, steps, pictures) for name, given in rows.items()}
    head = [
        f"{world_of(report)}, mask",
        *("objects' own" if name == "true" else name for name in above),
    ]
    cells = [
        f"{100 * figure.value:+.1f} [{100 * figure.low:+.1f}, {100 * figure.high:+.1f}]"
        for figure in above.values()
    ]
    return table(head, [["change above 850, %", *cells]]) + f"\n\n{claim.sentence(report)}"


def context_unrelated(report: dict) -> str:
    """The sentence alone."""
    return claim.sentence(report)


def alignment(report: dict) -> str:
    """Every method beside the first and CFG of equal rows or guidance: scores and costs."""
    costs = {one["text"]: one for one in report["methods"]}
    right, objects = report["scores"][:2]
    beside = [{one["method"]: one for one in score["beside"] if one["by"] == "steps"}
              for score in (right, objects)]  # fmt: skip
    matched = [{one["method"]: one for one in right["beside"] if one["by"] == kind}
               for kind in ("rows", "guidance")]  # fmt: skip
    near = {one["method"]: one for one in report["matched"] if one["by"] == "guidance"}
    rows = []
    for text in report["asked"]:
        cost, one = costs[text], beside[0].get(text)
        cells = [text, level(right["means"][text], 3)]
        cells.append(change(one, 3) + (f", p {p_value(one['p'])}" if one else ""))
        cells.append(p_value(one["p_holm"]) if one else "")
        cells += [level(objects["means"][text], 3), change(beside[1].get(text), 3)]
        w, (paid, guided) = cost["w_eff"], (each.get(text) for each in matched)
        cells.append(f"{paid['against']}: {change(paid, 3)}" if paid else "")
        off = ""
        if text in near and not near[text]["reached"]:
            off = f" (off by {near[text]['got'] / near[text]['wanted'] - 1:+.1%})"
        cells.append(f"{guided['against']}: {change(guided, 3)}{off}" if guided else "")
        cells += [f"{cost['rows']:.0f}", "none" if w is None else f"{w:.2f}"]
        rows.append(cells)
    head = [
        f"{world_of(report)}, n = {report['prompts']}", "prompt fully right",
        f"against {report['baseline']}",
        "p by Holm", "objects right", f"against {report['baseline']}",
        "fully right against CFG of equal rows", "and of equal guidance", "rows", "w_eff",
    ]  # fmt: skip
    return table(head, rows) + "\n\n" + _alignment_says(right, report)


def _alignment_says(score: dict, report: dict) -> str:
    """Which differences outlast the correction, and what was chosen from how many."""
    first, chosen = report["baseline"], report["chosen"]
    steps = [one for one in score["beside"] if one["by"] == "steps" and one["p_holm"] is not None]
    held = [f"{one['method']} ({change(one, 3)})" for one in steps if one["p_holm"] < 0.05]
    who = ", ".join(held) or "no method"
    said = f"After Holm's correction {who} differs from {first} in prompts fully right."
    if not chosen:
        return said
    of = {len(each) for each in chosen["from"].values()} - {1}
    how = f"{len(chosen['prompts'])} development prompts, of {min(of)} to {max(of)} values a method"
    said = f"{said} Settings were chosen by {chosen['score']} on {how}."
    return said + _guided_says(score, report)


def _guided_says(score: dict, report: dict) -> str:
    """Which methods CFG met at their effective guidance, and which of them differ from it."""
    matched = [one for one in report["matched"] if one["by"] == "guidance"]
    near = {one["method"] for one in matched if one["reached"]}
    if not near:
        return ""
    apart = [
        f"{one['method']} ({change(one, 3)}, p {p_value(one['p'])})"
        for one in score["beside"]
        if one["by"] == "guidance" and one["method"] in near and one["low"] * one["high"] > 0
    ]
    return (
        f" CFG came within 2% of the effective guidance of {len(near)} of {len(matched)} methods; "
        f"the interval of {', '.join(apart) or 'none of these'} excludes 0 beside it, uncorrected."
    )


# mark in the README -> (file in docs, what is made of it)
TABLES = {
    "repaint": ("repaint.json", repaint),
    "lead": ("repaint-lead.json", lead),
    "levelled": ("repaint-norms.json", arms),
    "grid": ("repaint-grid.json", grid),
    "distortion": ("distortion.json", distortion),
    "norms": ("norms.json", norms),
    "norm_cost": ("overhead-norms.json", norm_cost),
    "reach_grid": ("repaint-reach-grid.json", reach_grid),
    "reach": ("repaint-reach.json", reach),
    "mixed": ("repaint-mixed.json", mixed),
    "mixed_host": ("repaint-mixed-host.json", mixed_host),
    "guidance": ("guidance.json", guidance),
    "context": ("context.json", context),
    "context_unrelated": ("context-0.json", context_unrelated),
    "alignment": ("alignment.json", alignment),
    "auroras_context": ("auroras-context.json", told_by_context),
    "auroras": ("auroras.json", worlds),
    "auroras_room": ("auroras-room.json", worlds),
    "auroras_room_again": ("auroras-room-again.json", worlds),
    "auroras_room_dose": ("auroras-room-dose.json", worlds),
    "auroras_room_tuned": ("auroras-room-tune.json", tuned),
    "auroras_repaint": ("auroras-repaint.json", repaint),
    "auroras_methods": ("auroras-alignment.json", alignment),
    "auroras_tuned": ("auroras-tune.json", tuned),
}
PAGES = ("README.md", "docs/auroras.md")


def blocks() -> dict[str, str]:
    """What stands between each pair of marks."""
    return {
        name: make(json.loads((ROOT / "docs" / file).read_text("utf-8")))
        for name, (file, make) in TABLES.items()
        if (ROOT / "docs" / file).exists()
    }


def shown(text: str) -> dict[str, str]:
    """What stands in a page between each pair of marks."""
    found = re.findall(r"<!-- measured: (\w+) -->\n(.*?)\n<!-- end -->", text, re.DOTALL)
    return {name: block.strip("\n") for name, block in found}


def take(path: Path, name: str, machine: str = "") -> None:
    """A bench's file as docs/NAME.json, one row a line."""
    report = json.loads(path.read_text("utf-8"))
    if machine:
        report = {"machine": machine, **report}
    for score in report.get("scores", ()):
        score.pop("failures", None)  # they are pictures' own
    if "rows" in report:  # last, as the files have it
        report["rows"] = report.pop("rows")
    (ROOT / "docs" / f"{name}.json").write_text(f"{_lines(report)}\n", "utf-8")


def _lines(value: Any) -> str:
    """JSON with a line for each row of a list of rows, and nothing else broken."""
    if isinstance(value, dict) and any(_is_rows(v) or isinstance(v, dict) for v in value.values()):
        return "{" + ", ".join(f"{json.dumps(n)}: {_lines(v)}" for n, v in value.items()) + "}"
    if _is_rows(value):
        return "[\n" + ",\n".join(json.dumps(row) for row in value) + "\n]"
    return json.dumps(value)


def _is_rows(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and isinstance(value[0], dict)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--print", action="store_true")
    parser.add_argument("--take", nargs=2, metavar=("FILE", "NAME"))
    parser.add_argument("--machine", default="", metavar="NAME", help="with --take")
    args = parser.parse_args()
    if args.take:
        take(Path(args.take[0]), args.take[1], args.machine)
    made = blocks()
    if args.print:
        print("\n".join(f"{name}\n\n{block}\n" for name, block in made.items()))
        return
    for page in PAGES:
        text = (ROOT / page).read_text("utf-8")
        for name, block in made.items():
            marks = rf"(<!-- measured: {name} -->\n).*?(<!-- end -->)"
            text = re.sub(marks, lambda m, b=block: f"{m[1]}\n{b}\n\n{m[2]}", text, flags=re.DOTALL)
        (ROOT / page).write_text(text, "utf-8")


if __name__ == "__main__":
    main()
