"""A WebUI in this process, driven through its own API object: a real one, or the stand-in.

``ASYNDM_WEBUI_DIR`` names an AUTOMATIC1111 checkout with its repositories; the tests run with that
checkout's Python. Its data folder (extensions, outputs, config) is a temporary one, so that the
checkout stays as it is; checkpoints are taken from it. Without that variable the stand-in of
``standin/`` is started. As a program, this file writes the images of one request, made by a host
without the extension: ``driver.py OUT.npz < REQUEST.json``.
"""

from __future__ import annotations

import base64
import importlib
import importlib.util
import io
import json
import os
import sys
import tempfile
import threading
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
from PIL import Image

REPO = Path(__file__).resolve().parents[2]
STAND_IN = Path(__file__).with_name("standin")
# What the stand-in is made of besides the repository's own requirements.
NEEDED = ("einops", "gradio", "k_diffusion", "ldm", "omegaconf", "torchdiffeq", "torchsde")
FLAGS = """--use-cpu all --no-half --precision full --skip-torch-cuda-test --skip-version-check
--no-download-sd-model --do-not-download-clip --disable-console-progressbars --no-hashing --api
--disable-safe-unpickle""".split()
DEFAULTS = {"steps": 5, "width": 128, "height": 128, "seed": 1, "cfg_scale": 4}
# What of the extension holds on to the host's modules.
OURS = tuple(f"asyndm.hosts.{n}" for n in ("a1111", "forge", "hosted", "prompts", "samplers"))


class WebUI:
    """What the tests do with a host: ``api`` makes images, ``shared`` is its module of that name.

    ``close`` leaves the process as it was before, where that is possible.
    """

    api: Any
    shared: Any

    def checkpoint(self, name: str) -> None:
        """Load the checkpoint whose file name starts with ``name``."""
        raise NotImplementedError

    def has(self, name: str) -> bool:
        """Whether there is such a checkpoint."""
        from modules import sd_models

        return sd_models.get_closet_checkpoint_match(name) is not None

    def txt2img(self, **request: Any) -> Made:
        return Made(self._ask("txt2img", {**DEFAULTS, **request}))

    def img2img(self, **request: Any) -> Made:
        request = {**DEFAULTS, **request}
        for name in ("init_images", "mask"):
            if name in request:
                request[name] = _encoded(request[name])
        return Made(self._ask("img2img", request))

    def close(self) -> None:
        pass

    def _ask(self, kind: str, request: dict[str, Any]) -> Any:
        raise NotImplementedError


class Host(WebUI):
    """The real WebUI, started once a process.

    Args:
        extension: with AsynDM in its extensions.
    """

    def __init__(self, extension: bool = True) -> None:
        self.folder = Path(os.environ["ASYNDM_WEBUI_DIR"]).resolve()
        self.data = Path(tempfile.mkdtemp(prefix="webui-"))
        (self.data / "extensions").mkdir()
        (self.data / "models").mkdir()
        if extension:
            (self.data / "extensions" / "asyndm").symlink_to(REPO)
        sys.argv = [
            "webui.py",
            *FLAGS,
            *("--data-dir", str(self.data)),
            *("--ckpt-dir", str(self.folder / "models" / "Stable-diffusion")),
        ]
        sys.path = [p for p in sys.path if Path(p or ".").resolve() != REPO]
        sys.path.insert(0, str(self.folder))
        os.chdir(self.folder)
        from modules import initialize

        initialize.imports()
        initialize.initialize()
        from fastapi import FastAPI
        from modules import script_callbacks, shared, ui
        from modules.api.api import Api

        script_callbacks.before_ui_callback()  # as webui.py does
        ui.create_ui()
        self.shared = shared
        shared.sd_model  # noqa: B018 - loads it
        self.api = Api(FastAPI(), threading.Lock())

    def checkpoint(self, name: str) -> None:
        """Load the checkpoint whose file name starts with ``name``."""
        from modules import sd_models

        info = sd_models.get_closet_checkpoint_match(name)
        if info is None:
            raise LookupError(f"no checkpoint {name!r} in {self.folder}")
        self.shared.opts.set("sd_model_checkpoint", info.title, run_callbacks=False)
        sd_models.reload_model_weights(info=info)

    def _ask(self, kind: str, request: dict[str, Any]) -> Any:
        from modules.api import models

        if kind == "txt2img":
            return self.api.text2imgapi(models.StableDiffusionTxt2ImgProcessingAPI(**request))
        return self.api.img2imgapi(models.StableDiffusionImg2ImgProcessingAPI(**request))


class StandIn(WebUI):
    """The stand-in; ``close`` takes it out of the process again.

    Args:
        extension: with AsynDM among its scripts.
    """

    def __init__(self, extension: bool = True) -> None:
        os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")
        self._path = list(sys.path)
        sys.path.insert(0, str(STAND_IN))
        try:
            _lend_k_diffusion()
            from modules import api, script_callbacks, scripts, sd_models, shared

            self.shared, self._models = shared, sd_models
            self._outputs = tempfile.TemporaryDirectory(prefix="standin-")
            shared.data_path = self._outputs.name
            self.checkpoint("tiny-sd1")
            paths = [STAND_IN / "scripts" / "xyz_grid.py"]
            if extension:
                paths.append(REPO / "scripts" / "asyndm_script.py")
            scripts.load_scripts(paths)
            script_callbacks.before_ui_callback()
            self.api = api.Api()
        except BaseException:
            self.close()
            raise

    def checkpoint(self, name: str) -> None:
        info = self._models.get_closet_checkpoint_match(name)
        if info is None:
            raise LookupError(f"no checkpoint {name!r} in the stand-in")
        self._models.reload_model_weights(info=info)

    def close(self) -> None:
        sys.path[:] = self._path
        for name in list(sys.modules):
            if name.split(".")[0] in ("modules", "k_diffusion") or name.startswith(OURS):
                parent, _, last = name.rpartition(".")
                if parent in sys.modules:
                    vars(sys.modules[parent]).pop(last, None)
                del sys.modules[name]
        if hasattr(self, "_outputs"):
            self._outputs.cleanup()

    def _ask(self, kind: str, request: dict[str, Any]) -> Any:
        function = self.api.text2imgapi if kind == "txt2img" else self.api.img2imgapi
        return function(**request)


def missing() -> str:
    """Which packages the stand-in lacks here, "" for none."""
    return ", ".join(name for name in NEEDED if importlib.util.find_spec(name) is None)


def _lend_k_diffusion() -> None:
    """k-diffusion's modules without the package's own imports, half a training stack.

    Only its picture helpers want torchvision, so that is an empty stand-in while they are loaded.
    """
    package = ModuleType("k_diffusion")
    package.__spec__ = importlib.util.find_spec("k_diffusion")
    package.__path__ = list(package.__spec__.submodule_search_locations)
    lent = {"k_diffusion": package}
    names: list[str] = []
    if importlib.util.find_spec("torchvision") is None:
        names = ["torchvision.transforms.functional", "torchvision.transforms", "torchvision"]
        lent |= {name: ModuleType(name) for name in names}
        lent[names[1]].functional = lent[names[0]]
        lent[names[2]].transforms = lent[names[1]]
    sys.modules.update(lent)
    try:
        importlib.import_module("k_diffusion.external")
    finally:
        for name in names:
            del sys.modules[name]


class Made:
    """What the API answered."""

    def __init__(self, response: Any) -> None:
        self.pictures = [_decoded(image) for image in response.images]
        self.images = [np.asarray(picture.convert("RGB")) for picture in self.pictures]
        self.info = json.loads(response.info)

    @property
    def parameters(self) -> dict[str, Any]:
        return self.info["extra_generation_params"]


def _decoded(data: str) -> Image.Image:
    return Image.open(io.BytesIO(base64.b64decode(data)))


def _encoded(value: Any) -> Any:
    if isinstance(value, list):
        return [_encoded(each) for each in value]
    if isinstance(value, Image.Image):
        data = io.BytesIO()
        value.save(data, "PNG")
        return base64.b64encode(data.getvalue()).decode()
    return value


if __name__ == "__main__":
    asked = json.load(sys.stdin)
    host = (Host if os.environ.get("ASYNDM_WEBUI_DIR") else StandIn)(extension=False)
    host.checkpoint(asked.pop("checkpoint"))
    images = {}
    for key, (kind, request) in asked.items():
        images[key] = np.stack(getattr(host, kind)(**request).images)
    np.savez(sys.argv[-1] if sys.argv[-1].endswith(".npz") else os.environ["OUT"], **images)
