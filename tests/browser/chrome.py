"""Where Chromium is, and the mark of tests that need it."""

from __future__ import annotations

import os
import shutil

import pytest

CHROMIUM = os.environ.get("CHROMIUM") or next(
    (
        path
        for name in ("chromium", "chromium-browser", "google-chrome")
        if (path := shutil.which(name))
    ),
    None,
)
NEEDED = pytest.mark.skipif(
    CHROMIUM is None, reason="no Chromium: install one or name it in CHROMIUM"
)
