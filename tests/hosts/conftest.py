"""The host under test: a real WebUI where ``ASYNDM_WEBUI_DIR`` names one, else the stand-in."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

REAL = bool(os.environ.get("ASYNDM_WEBUI_DIR"))


# A real WebUI starts once a process. The stand-in goes again with every file of tests, so that no
# other test sees the modules it lends; it stands for one host after the other.
@pytest.fixture(
    scope="session" if REAL else "module",
    params=["real"] if REAL else ["A1111", "Forge", "reForge"],
)
def host(request):
    """A running host with the extension and the checkpoint sd1 loaded."""
    from driver import StandIn, missing
    from real_hosts import real_host

    if not REAL and missing():
        pytest.skip(f"the stand-in of a WebUI needs {missing()}: see requirements/")
    made = real_host()() if REAL else StandIn(style=request.param)
    made.checkpoint("sd1")
    made.txt2img(prompt="", steps=1)  # hosts leave notes on a model they use for the first time
    yield made
    made.close()


@pytest.fixture
def traces(host):
    """What a run leaves behind, checked when the test is over."""
    from jobs import Traces

    kept = Traces(host)
    yield kept
    kept.check()
