"""Plain, fp8, GGUF and NF4 weights of transformers, from files, in a real Forge: the same hooks."""

from __future__ import annotations

import os

import pytest
from flow_models import lent
from flow_weights import KINDS, is_of_kind
from test_host_flow import PLAIN, steers

pytestmark = pytest.mark.skipif(
    not os.environ.get("ASYNDM_WEBUI_DIR"), reason="needs a real WebUI: its own loader"
)
MODELS = ("sd3", "sd35", "flux", "chroma")


@pytest.fixture(params=[(m, w) for m in MODELS for w in KINDS], ids="-".join)
def loaded(host, request, tmp_path):
    name, weights = request.param
    if host.name != "Forge":
        pytest.skip("Forge main's loader")
    if weights == "nf4":
        pytest.importorskip("bitsandbytes", reason="Forge installs it where there is a GPU")
    host.checkpoint("sd1")
    with lent(host, name, weights, tmp_path):
        assert is_of_kind(host.network(), weights)
        host.txt2img(prompt="", steps=1, scheduler="Simple")
        yield name


def test_the_same_hooks(host, loaded, traces) -> None:
    more = {**PLAIN, "sampler_name": "Euler", "cfg_scale": 1 if loaded == "flux" else 4}
    for settings in ({}, {"softmax": "joint", "text_timestep": "objects"}):
        steers(host, least=1, settings=settings, **more)
