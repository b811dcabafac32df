"""The host under test: a real WebUI where ``ASYNDM_WEBUI_DIR`` names one."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

REAL = os.environ.get("ASYNDM_WEBUI_DIR")


@pytest.fixture(scope="session")
def host():
    """A running host with the extension and the checkpoint tiny-sd1 loaded."""
    if not REAL:
        pytest.skip("no real WebUI: set ASYNDM_WEBUI_DIR and run with that WebUI's Python")
    from driver import Host

    made = Host()
    made.checkpoint("tiny-sd1")
    return made
