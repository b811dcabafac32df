"""Which host it is, by the modules of the process."""

from __future__ import annotations

import logging
import os
import sys

import numpy as np
import pytest
from driver import REPO, StandIn, missing
from jobs import make, ticked

pytestmark = [
    pytest.mark.skipif(bool(os.environ.get("ASYNDM_WEBUI_DIR")), reason="of the stand-in"),
    pytest.mark.skipif(bool(missing()), reason=f"the stand-in needs {missing()}"),
]
FAMILIES = {"A1111": "A1111", "Forge": "Forge", "Neo": "Forge", "reForge": "reForge"}


@pytest.mark.parametrize("style", ["A1111", "Forge", "Neo", "reForge", "Classic"])
def test_the_host_is_known_by_its_modules(style):
    made = StandIn(style=style)
    try:
        from asyndm.hosts import detect

        found = detect.find_host()
        assert found.name == FAMILIES.get(style, "reForge")
        expected = "A1111Run" if style == "A1111" else "ForgeRun"
        assert found.samplers.run.__name__ == expected and not found.problem
    finally:
        made.close()


@pytest.mark.parametrize(
    ("module", "name"),
    [("sd_samplers_kdiffusion", "KDiffusionSampler"), ("ui_components", "InputAccordion")],
)
def test_an_unknown_host_is_one_line_and_stays_as_it_was(module, name, caplog):
    made = StandIn(extension=False)
    try:
        from modules import api, scripts, ui_components  # noqa: F401

        plain = make(made, "txt2img").images[0]
        delattr(sys.modules[f"modules.{module}"], name)
        with caplog.at_level(logging.WARNING):
            scripts.load_scripts([REPO / "scripts" / "asyndm_script.py"])
            made.api = api.Api()
        (line,) = [r.message for r in caplog.records if r.name == "asyndm"]
        assert f"modules.{module} has no {name}" in line and "\n" not in line
        image = make(made, "txt2img", **ticked(curvature=0.8)).images[0]
        assert np.array_equal(image, plain)
    finally:
        made.close()


def test_nothing_of_a_webui_is_unknown_too():
    from asyndm.hosts import detect

    found = detect.find_host()
    assert found.samplers is None and "AsynDM does not know this WebUI" in found.problem
