"""The README's figures are those of the benches' files."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
_spec = importlib.util.spec_from_file_location("tables", ROOT / "tools" / "readme_tables.py")
tables = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(tables)


def report(name="repaint"):
    return json.loads((ROOT / "docs" / tables.TABLES[name][0]).read_text("utf-8"))


def test_the_readme_shows_what_the_files_hold():
    shown = {}
    for page in tables.PAGES:
        found = tables.shown((ROOT / page).read_text("utf-8"))
        assert found and not {*shown} & {*found}
        shown |= found
    assert shown == tables.blocks(), "run tools/readme_tables.py"
    assert {*shown} == {*tables.TABLES}


def test_inpainting_comes_first_and_names_its_run():
    text = (ROOT / "README.md").read_text("utf-8").split("## What is measured\n")[1]
    of_run = report()
    assert text.strip().startswith("**Inpainting")
    before_the_table = " ".join(text.split("<!--")[0].split())
    assert f"--set {of_run['set']} --pictures {of_run['pictures']}" in before_the_table
    assert f"{of_run['steps']} steps" in before_the_table
    assert of_run["pictures"] >= 500
    assert [row["method"] for row in of_run["rows"]] == [
        tables.PLAIN,
        tables.CONCAVE,
        tables.SLOW,
        "context slow, k .9",
    ]


# The first trials, 96 scenes: changes of the error in object cells, by (objects, background) at
BEFORE = {
    (950, 665): -0.20, (950, 522): -0.21, (950, 0): 0.61,
    (850, 595): -0.12, (850, 468): -0.07, (850, 0): 1.37,
    (700, 490): 0.06, (700, 385): 0.34, (700, 0): 3.82,
    (500, 350): 0.31, (500, 275): 0.87, (500, 0): 6.75,
    (300, 210): 0.25, (300, 165): 0.67, (300, 0): 4.68,
}  # fmt: skip
BEFORE_LEVELLED = {(500, 275): 0.10, (300, 165): 0.05, (700, 385): -0.04, (850, 468): -0.15}


def test_levelled_norms_reproduce_what_was_found_before():
    """Within 5 points of the first trials, on the same scenes; in short what the table shows."""
    rows = {
        (row["norms"], row["t_object"], row["t_background"]): row for row in report("norms")["rows"]
    }

    def change(norms, pair, cells="objects"):
        return rows[(norms, *pair)][cells]["change"]

    for pair, found in BEFORE.items():
        assert change("host", pair) == pytest.approx(found, abs=0.05)
    for pair, found in BEFORE_LEVELLED.items():
        assert change("shifted", pair) == pytest.approx(found, abs=0.05)
        assert change("scaled", pair) == pytest.approx(found, abs=0.05)
    assert change("host", (850, 468), "background") == pytest.approx(0.76, abs=0.05)
    assert change("shifted", (850, 468), "background") == pytest.approx(1.32, abs=0.05)
    assert change("shifted", (500, 0)) == pytest.approx(2.21, abs=0.05)


def test_figures_are_written_short():
    assert tables.number(0.6680, 3) == ".668" and tables.number(-0.02, 2, "+") == "-.02"
    assert tables.number(2.389, 2) == "2.39" and tables.number(10.0, 1) == "10.0"
    assert tables.p_value(0.4806) == ".48" and tables.p_value(5.96e-9) == "6e-9"
    assert tables.p_value(1.0) == "1"


def test_another_result_is_another_table_and_another_sentence():
    """What is said follows from the rows."""
    of_run = report()
    before = tables.repaint(of_run)
    assert "a slow region follows the prompt more often" in before
    rows = {row["method"]: row for row in of_run["rows"]}
    rows[tables.SLOW]["right_difference_to_concave"]["low"] = -0.01
    assert "is not shown to follow the prompt more often" in tables.repaint(of_run)
    rows[tables.CONCAVE]["right_difference"]["low"] = 0.01
    assert "brings a gain too" in tables.repaint(of_run)


@pytest.mark.parametrize("name", ["malformed", "count", "seam", "sharpness", "right"])
def test_every_column_is_read_from_the_file(name):
    of_run = report()
    before = tables.arms(of_run)
    of_run["rows"][2][name]["value"] += 0.5
    assert tables.arms(of_run) != before


def test_a_file_is_taken_whole(tmp_path, monkeypatch):
    monkeypatch.setattr(tables, "ROOT", tmp_path)
    (tmp_path / "docs").mkdir()
    given = {"pictures": 2, "groups": {"a": {"b": 1}}, "rows": [{"method": "x"}, {"method": "y"}]}
    (tmp_path / "run.json").write_text(json.dumps(given))
    tables.take(tmp_path / "run.json", "kept")
    assert json.loads((tmp_path / "docs" / "kept.json").read_text()) == given


@pytest.mark.parametrize(
    ("low", "high", "says"),
    [(-0.1, 0.1, "no gain is shown"), (0.01, 0.1, "slow region repairs more"),
     (-0.1, -0.01, "plain inpainting repairs more")],
)  # fmt: skip
def test_what_is_said_of_spoilt_objects_follows_from_the_rows(low, high, says):
    of_run = report("distortion")
    rows = {row["method"]: row for row in of_run["rows"]}
    rows[tables.SLOW]["right_difference"] |= {"low": low, "high": high}
    assert says in tables.distortion(of_run)


@pytest.mark.parametrize("name", ["context", "context_unrelated"])
def test_the_context_map_is_told_from_its_rows(name):
    of_run = report(name)
    make = tables.TABLES[name][1]
    assert of_run["pictures"] >= 96 and of_run["sentence"] in make(of_run)
    assert of_run["sentence"].startswith("Clearer context harms objects")
    for row in of_run["objects"]:
        row["se"] = 0.5
    assert "cannot be told from 96 pictures" in make(of_run)


def test_methods_beside_each_other_are_told_from_their_rows():
    of_run = report("alignment")
    assert of_run["prompts"] >= 175 and len(of_run["asked"]) >= 15 and of_run["named_at"] == 0
    assert sum("asyndm+" in text for text in of_run["asked"]) == 3
    before = tables.alignment(of_run)
    assert f"{len(of_run['chosen']['prompts'])} development prompts" in before
    right = of_run["scores"][0]
    assert right["name"] == "right"
    for one in right["beside"]:
        one["p_holm"] = 1.0
    assert "no method differs" in tables.alignment(of_run)
    right["beside"][0]["p_holm"] = 0.001
    assert f"correction {right['beside'][0]['method']} (" in tables.alignment(of_run)
    right["means"]["sync"]["value"] += 0.25
    assert tables.alignment(of_run) != before


@pytest.mark.parametrize("name", ["auroras", "auroras_room"])
def test_what_auroras_show_follows_from_their_rows(name):
    of_run = report(name)
    assert of_run["images_an_arm"] == 1800 and {*of_run["couplings"]} == {0, 0.5, 1}
    arms = {row["arm"].split(",")[0].split("=")[0] for row in of_run["rows"]}
    assert len(of_run["rows"]) >= 14 and {"synchronous", "reverse:curvature"} <= arms
    make = tables.TABLES[name][1]
    for row in of_run["rows"]:
        if row["right_difference"]:
            row["right_difference"] |= {"low": -0.1, "high": 0.1}
    assert "The interval of no arm excludes 0" in make(of_run)
    found = next(row for row in of_run["rows"] if row["right_difference"])
    found["right_difference"]["low"] = 0.01
    assert "The interval of no arm" not in make(of_run)


def test_the_room_to_mend_is_there():
    """Where methods are compared, synchronous pictures leave them something to mend."""
    rows = report("auroras_room")["rows"]
    plain = [row["right"]["value"] for row in rows if row["arm"] == "synchronous"]
    assert len(plain) == 3 and all(0.55 <= value <= 0.70 for value in plain)
    of_run = report("auroras_room_dose")
    most = [row["right"]["low"] for row in of_run["rows"] if row["arm"] == "drawn"]
    assert len(most) == 2 and min(most) > max(plain)
    said = tables.TABLES["auroras_room_dose"][1](of_run).rpartition("\n\n")[2]
    assert "drawn" not in said  # a ceiling is no method


@pytest.mark.parametrize(("name", "arms"), [("auroras_tuned", 5), ("auroras_room_tuned", 2)])
def test_a_tuning_is_told_by_the_arms_it_has(name, arms):
    of_run = report(name)
    made = tables.TABLES[name][1](of_run)
    assert len(of_run["arms"]) == arms == made.count("\n| ") - 1
    assert ("*adaptive* minus" in made) == ("adaptive" in of_run["arms"])


def test_levelled_norms_cost_what_was_asked():
    """Operations and memory at most 1.02 of the host's norms', time's lower end at most 1.05."""
    of_run = report("norm_cost")
    assert "tiny" not in of_run["network"] and [*of_run["sizes"]] == ["64x64", "96x64"]
    for size in of_run["sizes"].values():
        assert size["operations_ratio"] <= 1.02 and size["peak_memory_ratio"] <= 1.02
        assert size["time_ratio_interval"][0] <= 1.05
    before = tables.norm_cost(of_run)
    of_run["sizes"]["64x64"]["peak_memory_ratio"] = 1.5
    assert "1.500" in tables.norm_cost(of_run) and tables.norm_cost(of_run) != before


def timed_guidance() -> dict:
    """The file with times of all methods but the last."""
    of_run = report("guidance")
    of_run |= {"timed": [16, 16], "threads": 1, "device": "cpu", "torch": "2.13.0+cpu"}
    *first, last = of_run["methods"]
    for place, name in enumerate(first):
        for clock, found in of_run["methods"][name].items():
            ratio = found["operations_ratio"] * (1.06 if clock == "synchronous" else 1.5)
            found |= {"time_ratio": ratio, "pairs": 3 + place % 2}
            found["time_ratio_interval"] = [ratio - 0.2, ratio + 0.2]
    for found in of_run["methods"][last].values():
        for key in ("time_ratio", "time_ratio_interval", "pairs"):
            found.pop(key, None)
    return of_run


def test_rivals_show_what_was_timed_and_what_was_not():
    of_run = timed_guidance()
    of_run.pop("machine", None)
    made = tables.guidance(of_run)
    rows = [[c.strip() for c in line.split("|")[1:-1]] for line in made.splitlines() if "|" in line]
    head, table = rows[0], {row[0]: dict(zip(rows[0], row)) for row in rows[2:]}
    assert len(table) == len(of_run["methods"]) and len({len(row) for row in rows}) == 1
    assert head[3:6] == ["operations, alone and with AsynDM", "time, alone", "time, with AsynDM"]
    assert table["PAG"]["rows a step"] == "3"
    assert table["PAG"]["operations, alone and with AsynDM"] == "1.500, 1.500"
    assert table["PAG"]["time, alone"] == "1.59 (1.39 to 1.79)"
    assert table["PAG"]["time, with AsynDM"] == "2.25 (2.05 to 2.45)"
    assert table["Z-Sampling"]["time, alone"] == table["Z-Sampling"]["time, with AsynDM"]
    assert table["Z-Sampling"]["time, alone"] == "not timed"
    says = made.splitlines()[-1]
    assert "3 to 4 pairs" in says and "16x16 latents" in says and "docs/guidance.json" in says
    assert "a CPU, 1 thread, torch 2.13.0+cpu" in says
    count = 2 * len(of_run["methods"])
    assert f"Timed are {count - 2} of {count}; {count // 2 - 1} of their intervals hold" in says
    named = tables.guidance({"machine": "a lent card", **of_run})
    assert "(a lent card, 1 thread" in named


def test_rivals_without_a_time_have_no_column_of_it():
    of_run = timed_guidance()
    for found in of_run["methods"].values():
        for one in found.values():
            one.pop("time_ratio", None)
    made = tables.guidance(of_run)
    assert "time" not in made.splitlines()[0] and "not timed" not in made


def test_a_file_says_what_it_was_measured_on(tmp_path, monkeypatch):
    monkeypatch.setattr(tables, "ROOT", tmp_path)
    (tmp_path / "docs").mkdir()
    (tmp_path / "run.json").write_text(json.dumps({"device": "cpu"}))
    tables.take(tmp_path / "run.json", "kept", "two cores")
    kept = json.loads((tmp_path / "docs" / "kept.json").read_text())
    assert kept == {"machine": "two cores", "device": "cpu"}


def test_where_norms_act_is_told_from_the_rows():
    of_run = report("reach_grid")
    before = tables.reach_grid(of_run)
    rows = {row["method"]: row for row in of_run["rows"]}
    rows["region slow, k .9, context leads .5, levelled norms, objects only"]["right"]["value"] = 1
    assert "Chosen: *objects only*" in tables.reach_grid(of_run) != before
    confirmed = report("reach")
    (told,) = (row for row in confirmed["rows"] if "right_difference_to_everywhere" in row)
    reach = told["method"].rpartition("norms, ")[2]
    assert f"Chosen: *{reach}*" in before  # what was chosen is what was confirmed
    for low, high, says in ((0.01, 0.2, "more pictures"), (-0.2, -0.01, "fewer pictures")):
        told["right_difference_to_everywhere"] |= {"low": low, "high": high}
        assert f"with *{reach}* {says} are right than with everywhere" in tables.reach(confirmed)


def test_what_a_fine_tune_gives_is_told_from_its_rows():
    of_run = report("mixed")
    assert len(of_run["weights"]) == 8
    rows = {row["method"]: row for row in of_run["rows"]}
    leads = rows[tables.LEADS]
    assert of_run["rows"][0]["method"] == tables.PLAIN and of_run["pictures"] >= 500
    for low, high, says in ((-1, 1, "neither"), (0.1, 1, "more"), (-1, -0.1, "fewer")):
        leads["right_difference"] |= {"low": low, "high": high}
        assert f"leads by half {says}" in tables.mixed(of_run)


def test_what_a_fine_tune_gives_alone_is_told_from_its_rows():
    of_run = report("mixed_host")
    assert of_run["pictures"] >= 500 and of_run["weights"] != report("mixed")["weights"]
    before = tables.mixed_host(of_run)
    for row in of_run["rows"][1:]:
        row["right_difference"]["low"] = -1.0
    assert "alone neither more nor fewer" in tables.mixed_host(of_run) != before
