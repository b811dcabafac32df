"""The page "what works with what" is that of the measured table; what others install from."""

from __future__ import annotations

import configparser
import importlib.util
import json
import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
_spec = importlib.util.spec_from_file_location("works_with", ROOT / "tools" / "works_with.py")
works_with = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(works_with)

# The tags of the hosts' index (tags.json of its repository, 2026).
TAGS = {
    *("script", "localization", "tab", "dropdown", "ads", "installed", "training", "models"),
    *("UI related", "prompting", "editing", "manipulations", "online", "animation", "query"),
    *("science", "extras"),
}


def table() -> dict:
    return json.loads((ROOT / "docs" / "works-with.json").read_text("utf-8"))


def measured() -> dict:
    return {host: rows for host, rows in table().items() if host != works_with.JOBS}


def test_the_page_is_that_of_the_table():
    page = (ROOT / "docs" / "works-with.md").read_text("utf-8")
    assert page == works_with.page(table()), "run tools/works_with.py"


def test_the_table_is_complete():
    for host, asked in table().get(works_with.JOBS, {}).items():
        assert host in works_with.HOSTS and set(asked) == {"names", "date", "version"}
        assert asked["names"] == sorted(set(asked["names"])) and "txt2img" in asked["names"]
    for host, rows in measured().items():
        assert host in works_with.HOSTS
        for name, row in rows.items():
            assert set(row) == {*works_with.CELLS, "date", "version"}, name
            assert re.fullmatch(r"\d{4}-\d\d-\d\d", row["date"]) and row["version"] != "unknown"
            for cell in works_with.CELLS:
                value = row[cell]
                assert isinstance(value, int | str) and (isinstance(value, str) or value >= 0)


def test_a_row_that_another_host_has_is_not_run_here():
    cells = {"plain": 0, "ticked": 9, "masks": 0, "date": "2026-01-02", "version": "1"}
    page = works_with.page({"A1111": {"x|y": cells}, "Forge": {"z": cells}})
    assert "| x\\|y | 0 | 9 | 0 | 1 | 2026-01-02 |" in page
    assert page.count("| not run | not run | not run |  |  |") == 2
    assert "## Neo\n\nNot run." in page


def test_a_row_that_a_host_does_not_have_is_told_from_one_not_run():
    cells = {"plain": 0, "ticked": 9, "masks": 0, "date": "2026-01-02", "version": "1"}
    rows = {"A1111": {"own (txt2img)": cells}, "Forge": {"X (txt2img)": cells}}
    asked = {"A1111": {"names": ["Own (txt2img)", "Idle (txt2img)"]}}
    asked["Forge"] = {"names": ["X (txt2img)"]}
    page = works_with.page({**rows, "Neo": {"extension": cells}, works_with.JOBS: asked})
    first, forge, neo = (part.partition("\n")[2] for part in page.split("## ")[1:4])
    lacks, not_run = " not in this host |" * 3, " not run |" * 3
    assert f"| X (txt2img) |{lacks}" in first and f"| extension |{not_run}" in first
    assert f"| own (txt2img) |{lacks}" in forge
    # what a host has and nobody has run is there, too
    assert f"| Idle (txt2img) |{not_run}" in first and f"| Idle (txt2img) |{lacks}" in forge
    assert f"| X (txt2img) |{not_run}" in neo  # nobody has asked Neo for its list
    assert works_with.JOBS not in page


def test_capitals_make_no_other_row():
    cells = {"plain": 0, "ticked": 9, "masks": 0, "date": "2026-01-02", "version": "1"}
    page = works_with.page({"A1111": {"SD upscale": cells}, "Neo": {"SD Upscale": cells}})
    assert "| not run" not in page
    assert page.index("| SD upscale |") < page.index("## Neo") < page.index("| SD Upscale |")


def test_the_entry_for_the_index_has_its_keys_and_tags():
    entry = json.loads((ROOT / "docs" / "extension-index.json").read_text("utf-8"))
    assert set(entry) == {"name", "url", "description", "tags"}
    # OWNER until the repository has its public address; README says so while it has none.
    assert re.fullmatch(r"https://[^ ]+?\.git", entry["url"])
    readme = (ROOT / "README.md").read_text("utf-8")
    assert ("OWNER" in entry["url"]) == ("holds `OWNER`" in readme)
    assert entry["tags"] and set(entry["tags"]) <= TAGS - {"installed", "localization"}
    assert len(entry["tags"]) == len(set(entry["tags"]))
    told = entry["description"]
    assert 20 < len(told) < 300 and "\n" not in told
    # what it runs on, and nothing that README's measurements do not show
    families = ("SD 1, 2, XL, 3, 3.5", "Flux", "Chroma", "Flux.2", "Z-Image", "Qwen-Image", "Anima")
    assert all(name in told for name in families)
    assert not re.search(r"better|faithful|improve|quality", told)


def test_metadata_names_nothing_it_needs_and_an_order_for_any_folder():
    read = configparser.ConfigParser()
    assert read.read(ROOT / "metadata.ini", "utf-8")
    assert read["Extension"]["Name"] == "asyndm" and read["Extension"]["Requires"] == ""
    # A host takes the folder's name for the extension's: a section that names a callback by it
    # would be an error wherever somebody cloned into another folder.
    assert not [name for name in read.sections() if name.startswith("callbacks/")]
    after = {part.strip() for part in read["scripts/asyndm_script.py"]["After"].split(",")}
    assert {"adetailer", "sd-webui-controlnet", "sd_forge_controlnet"} <= after
    assert (ROOT / "scripts" / "asyndm_script.py").exists()
