"""Whole checkpoint files of Stable Diffusion 3 and 3.5, Flux and Chroma in real WebUIs."""

from __future__ import annotations

import os

import flow_files
import numpy as np
import pytest
from jobs import Traces, apart, make, note, ticked
from test_host_flow import asked, steers

from asyndm.network.names import name_a_transformer, weight_names

pytestmark = pytest.mark.skipif(
    not os.environ.get("ASYNDM_WEBUI_DIR"), reason="needs a real WebUI: its own loader"
)
MODELS = {"A1111": ["sd3"], "Forge": ["sd3", "sd35", "flux", "chroma"]}
CLASSES = {"sd3": "MMDiT", "flux": "Flux", "chroma": "Chroma"}


@pytest.mark.parametrize("name", MODELS["Forge"])
def test_a_whole_file_is_loaded_and_steered(host, name) -> None:
    """Between two jobs with another checkpoint, which are one and the same picture."""
    if name not in MODELS.get(host.name, ()):
        pytest.skip(f"{host.name} has no {name}, or has it elsewhere")
    from modules import devices

    host.checkpoint("sd1")
    before = make(host, "txt2img", **ticked(objects="cat", curvature=0.9))
    with flow_files.loaded(host, name) as path:
        assert name_a_transformer(weight_names(path))  # so the page shows their two settings
        assert CLASSES[name.removesuffix("5")] in type(host.network()).__name__
        more = asked(name)
        # A1111's weights in fp8, where its setting says so, are multiplied in bfloat16 on a CPU.
        within = 4 if getattr(devices, "fp8", False) else 1
        host.txt2img(prompt="", steps=1, scheduler="Simple")  # hosts leave notes at a first use
        traces = Traces(host)
        for sampler in ("Euler", "Euler a", "DPM++ 2M"):
            _, moved = steers(host, within=within, **more, sampler_name=sampler)
            assert moved.parameters["AsynDM matched"][0]["cat"]
        for kind in ("img2img", "inpaint", "hires"):
            joint = {"softmax": "joint"}
            steers(host, kind, settings=joint, within=within, **more, sampler_name="Euler")
        made = make(host, "txt2img", **more, sampler_name="Euler", **ticked(objects="cat"))
        assert "curvature=0.3" in made.parameters["AsynDM"] and not note(made)
        traces.check()
    after = make(host, "txt2img", **ticked(objects="cat", curvature=0.9))
    assert np.array_equal(before.images[0], after.images[0])
    assert apart(before.images[0], made.images[0]) > 0
