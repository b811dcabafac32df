"""Networks to test with, each made once."""

from __future__ import annotations

import functools

import pytest
from networks import MAKERS, Case


@functools.cache
def make(name: str) -> Case:
    return MAKERS[name]()


@pytest.fixture(params=MAKERS)
def case(request: pytest.FixtureRequest) -> Case:
    """Each network in turn."""
    return make(request.param)


@pytest.fixture(params=["ldm_sd1", "ldm_sdxl", "diffusers_sd1", "diffusers_sdxl"])
def small(request: pytest.FixtureRequest) -> Case:
    """One of either family, with and without a label vector."""
    return make(request.param)
