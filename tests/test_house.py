"""The house stays in order: who imports whom, what is not needed, how long files may be."""

from __future__ import annotations

import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
_spec = importlib.util.spec_from_file_location("house", ROOT / "tools" / "house.py")
house = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(house)

FLOORS = list(house.ROOMS)
HOSTS = {"modules", "modules_forge", "backend", "ldm_patched", "ldm", "sgm", "extensions_builtin"}
# A WebUI may lack them all.
BLOCKED = ("diffusers", "scipy", "jinja2", "matplotlib", "optuna", "ray", "transformers")


def test_every_file_is_in_a_room_or_beside():
    known = {*house.ROOMS, *house.BESIDE, ""}
    assert {house.room_of(module) for module in house.modules()} <= known
    assert [house.room_of(module) for module in house.modules()].count("") == 1  # the face


def test_imports_only_go_down():
    for one, two in house.arrows():
        assert two not in house.BESIDE or one in house.BESIDE, f"{one} uses {two}"
        if one in house.ROOMS:
            assert FLOORS.index(one) < FLOORS.index(two), f"{one} imports {two}, which is above it"


def test_the_arrows_are_seen(tmp_path, monkeypatch):
    """The reader of imports itself: statements, inside functions, by name."""
    text = (
        "import asyndm.core.run\n"
        "def f():\n    from asyndm.page import preview\n"
        "    import_module(f'asyndm.bench.{x}')\n"
    )
    path = tmp_path / "x.py"
    path.write_text(text)
    rooms = {house.room_of(name) for name in house.imported(path)}
    assert rooms == {"core", "page", "bench"}
    monkeypatch.setattr(house, "modules", lambda: {"asyndm.core.x": path})
    assert house.arrows() == {("core", "page"): 1, ("core", "bench"): 1}


def test_the_picture_shows_the_house_as_it_is():
    picture = (ROOT / "docs" / "house.svg").read_text("utf-8")
    shown = re.search(r"<dc:description>(.*?)</dc:description>", picture, re.DOTALL).group(1)
    assert shown.replace("&gt;", ">").strip().split("; ") == house.told(), "run tools/house.py"


def test_no_room_below_touches_a_host():
    for module, path in house.modules().items():
        if house.room_of(module) in ("hosts", "scripts", *house.BESIDE):
            continue
        roots = {name.partition(".")[0] for name in house.imported(path)}
        assert not roots & HOSTS, f"{module} imports {roots & HOSTS}"
        gradio = house.room_of(module) == "page"
        assert gradio or "gradio" not in roots, f"{module} imports gradio"


def test_no_file_is_longer_than_400_lines():
    files = subprocess.run(
        ["git", "ls-files", "-co", "--exclude-standard", "*.py", "*.js", "*.css"],
        cwd=ROOT, capture_output=True, text=True,
    ).stdout.split()  # fmt: skip
    if not files:
        pytest.skip("no git checkout")
    long = {f: n for f in files if (n := len((ROOT / f).read_text("utf-8").splitlines())) > 400}
    assert not long


def test_import_asyndm_is_light_and_its_public_names_are_there():
    code = (
        "import sys, asyndm; "
        "assert not {'torch', 'numpy', 'gradio'} & {*sys.modules}, 'import asyndm loads too much'; "
        "assert {'Settings', 'attach', 'sample_asyndm', 'steer'} <= {*dir(asyndm)}; "
        "from asyndm.core.settings import Settings; assert asyndm.Settings is Settings; "
        "from asyndm import sample_asyndm, attach; "
        "assert asyndm.__version__ and not hasattr(asyndm, 'nothing')"
    )
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)


def test_the_script_needs_nothing_that_a_webui_may_lack():
    """It loads and makes an image with its masks, after the host (here: the stand-in) is up."""
    sys.path.insert(0, str(ROOT / "tests" / "hosts"))
    from driver import missing

    if missing():
        pytest.skip(f"the stand-in needs {missing()}")
    code = f"""
import sys
sys.path.insert(0, "tests/hosts")
from driver import REPO, StandIn
host = StandIn(extension=False)
assert not any(name.startswith("asyndm") for name in sys.modules)
for name in [*sys.modules]:
    if name.partition(".")[0] in {BLOCKED!r}:
        del sys.modules[name]
sys.modules |= dict.fromkeys({BLOCKED!r})  # an import of them fails from here on
from modules import api, scripts
scripts.load_scripts([REPO / "scripts" / "asyndm_script.py"])
host.api = api.Api()
made = host.txt2img(prompt="a cat", steps=3, alwayson_scripts={{
    "AsynDM": {{"args": [{{"curvature": 0.8, "show_masks": True}}]}}
}})
assert len(made.images) > 1 and "AsynDM note" not in made.parameters, made.parameters
"""
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, env=env, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-2000:]
