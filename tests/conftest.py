"""Fixtures shared by all tests."""

from __future__ import annotations

import importlib
import importlib.util
import sys
from types import ModuleType, SimpleNamespace

import pytest
from hypothesis import settings

# One core, shared with other work: time per example says nothing about the code.
settings.register_profile("core", deadline=None, max_examples=80)
settings.load_profile("core")


@pytest.fixture(scope="session")
def kdiff() -> SimpleNamespace:
    """The real k-diffusion: ``.sampling``, ``.external``, ``.utils``.

    Its package imports half a training stack (CLIP, wandb, torchvision, ...) that sampling does not
    need, so the three modules are loaded without running it, with an empty stand-in for torchvision
    that is gone again afterwards.
    """
    spec = importlib.util.find_spec("k_diffusion")
    if spec is None:
        pytest.skip("k-diffusion is not installed (pip install --no-deps k-diffusion)")
    before = dict(sys.modules)
    package = ModuleType("k_diffusion")
    package.__path__ = list(spec.submodule_search_locations)
    stand_ins = {"k_diffusion": package}
    if importlib.util.find_spec("torchvision") is None:
        functional = ModuleType("torchvision.transforms.functional")
        transforms = ModuleType("torchvision.transforms")
        transforms.functional = functional
        root = ModuleType("torchvision")
        root.transforms = transforms
        stand_ins |= {m.__name__: m for m in (root, transforms, functional)}
    sys.modules.update(stand_ins)
    try:
        names = ("utils", "sampling", "external")
        return SimpleNamespace(**{n: importlib.import_module(f"k_diffusion.{n}") for n in names})
    finally:
        for name in list(sys.modules):
            if name.split(".")[0] in ("k_diffusion", "torchvision") and name not in before:
                del sys.modules[name]
        sys.modules.update({n: before[n] for n in stand_ins if n in before})


@pytest.fixture(scope="session")
def weights(tmp_path_factory):
    """Untrained weights of the embedded model, as a file."""
    from safetensors.torch import save_file

    from asyndm.scenes.pipeline import ScenePipeline

    path = tmp_path_factory.mktemp("weights") / "random.safetensors"
    save_file(ScenePipeline.random().model.state_dict(), path)
    return path
