"""The host under test: a real WebUI where ``ASYNDM_WEBUI_DIR`` names one, else the stand-in."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

REAL = bool(os.environ.get("ASYNDM_WEBUI_DIR"))


# A real WebUI starts once a process. The stand-in goes again with every file of tests, so that no
# other test sees the modules it lends.
@pytest.fixture(scope="session" if REAL else "module")
def host():
    """A running host with the extension and the checkpoint tiny-sd1 loaded."""
    from driver import Host, StandIn, missing

    if not REAL and missing():
        pytest.skip(f"the stand-in of AUTOMATIC1111 needs {missing()}: see requirements/")
    made = Host() if REAL else StandIn()
    made.checkpoint("tiny-sd1")
    yield made
    made.close()
