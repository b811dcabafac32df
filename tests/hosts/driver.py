"""A real WebUI in this process, driven through its own API object.

``ASYNDM_WEBUI_DIR`` names an AUTOMATIC1111 checkout with its repositories; the tests run with that
checkout's Python. Its data folder (extensions, outputs, config) is a temporary one, so that the
checkout stays as it is; checkpoints are taken from it. As a program, this file writes the images
of one request, made by a host without the extension: ``driver.py OUT.npz < REQUEST.json``.
"""

from __future__ import annotations

import base64
import io
import json
import os
import sys
import tempfile
import threading
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

REPO = Path(__file__).resolve().parents[2]
FLAGS = """--use-cpu all --no-half --precision full --skip-torch-cuda-test --skip-version-check
--no-download-sd-model --do-not-download-clip --disable-console-progressbars --no-hashing --api
--disable-safe-unpickle""".split()


class Host:
    """The WebUI, started once a process.

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
        from modules import api, shared, ui
        from modules.api.api import Api

        assert api is not None
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

    def has(self, name: str) -> bool:
        """Whether there is such a checkpoint."""
        from modules import sd_models

        return sd_models.get_closet_checkpoint_match(name) is not None

    def txt2img(self, **request: Any) -> Made:
        from modules.api import models

        request = {"steps": 6, "width": 128, "height": 128, "seed": 1, "cfg_scale": 4, **request}
        return Made(self.api.text2imgapi(models.StableDiffusionTxt2ImgProcessingAPI(**request)))

    def img2img(self, **request: Any) -> Made:
        from modules.api import models

        request = {"steps": 6, "width": 128, "height": 128, "seed": 1, "cfg_scale": 4, **request}
        for name in ("init_images", "mask"):
            if name in request:
                request[name] = _encoded(request[name])
        return Made(self.api.img2imgapi(models.StableDiffusionImg2ImgProcessingAPI(**request)))


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
    host = Host(extension=False)
    host.checkpoint(asked.pop("checkpoint"))
    images = {}
    for key, (kind, request) in asked.items():
        images[key] = np.stack(getattr(host, kind)(**request).images)
    np.savez(sys.argv[-1] if sys.argv[-1].endswith(".npz") else os.environ["OUT"], **images)
