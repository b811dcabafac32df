"""A WebUI in this process, driven through its own API object: a real one, or the stand-in.

``ASYNDM_WEBUI_DIR`` names a checkout of AUTOMATIC1111, Forge, Forge Neo, reForge or Forge Classic,
ready to run; the tests run with that checkout's Python. Its data folder (extensions, outputs,
config) is a temporary one, so that the checkout stays as it is; checkpoints are taken from it:
tiny-NAME or small-NAME for the names sd1, sd1-b, sd1-inpaint, sd2-v, sdxl, sdxl-rectified, sd35,
flux, chroma.
Without that variable the stand-in of ``standin/`` is started. As a program, this file writes the
images of one request, made by a host without the extension: ``OUT=FILE.npz driver.py <
REQUEST.json``.
"""

from __future__ import annotations

import base64
import contextlib
import importlib
import importlib.util
import io
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
from PIL import Image

REPO = Path(__file__).resolve().parents[2]
STAND_IN = Path(__file__).with_name("standin")
STAND_IN_FORGE = Path(__file__).with_name("standin_forge")
STYLES = ("A1111", "Forge", "Neo", "reForge", "Classic")  # of the stand-in
# What the stand-in is made of besides the repository's own requirements.
NEEDED = ("clip", "einops", "gradio", "k_diffusion", "ldm", "omegaconf", "torchdiffeq", "torchsde")
LENT = ("modules", "k_diffusion", "modules_forge", "backend", "ldm_patched")  # by the stand-in
DEFAULTS = {"steps": 5, "width": 128, "height": 128, "seed": 1, "cfg_scale": 4}
# What of the extension holds on to the host's modules.
OURS = tuple(
    f"asyndm.hosts.{n}"
    for n in (
        "a1111 base_pass chosen forge guided hosted inside levelling measuring noise prompts reel "
        "samplers saving shims timesteps"
    ).split()
)


class WebUI:
    """What the tests do with a host: ``api`` makes images, ``shared`` is its module of that name.

    ``close`` leaves the process as it was before, where that is possible.
    """

    name = "A1111"
    backend = "A1111"  # "Forge" or "reForge" where the network is another one
    # Forge noises what inpainting keeps from a generator that the whole batch shares.
    inpaints_alone_as_in_a_batch = True
    api: Any
    shared: Any

    def checkpoint(self, name: str) -> None:
        """Load one of the checkpoints sd1, sd1-b, ...

        Raises:
            LookupError: there is none of that name.
        """
        info = self._find(name)
        if info is None:
            raise LookupError(f"no checkpoint tiny-{name} or small-{name}")
        self._load(info)

    def has(self, name: str) -> bool:
        """Whether there is such a checkpoint."""
        return self._find(name) is not None

    def title(self, name: str) -> str:
        """A checkpoint's name in the host."""
        return self._find(name).title

    def network(self) -> Any:
        """The U-Net now loaded."""
        return self.shared.sd_model.model.diffusion_model

    def root(self) -> Any:
        """The module all of the loaded model that AsynDM could touch is in."""
        return self.shared.sd_model

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

    def _find(self, name: str) -> Any:
        from modules import sd_models

        for stem in (f"tiny-{name}", f"small-{name}", name):
            for info in sd_models.checkpoints_list.values():
                if Path(info.filename).stem == stem:
                    return info
        return None

    def _load(self, info: Any) -> None:
        raise NotImplementedError

    def _ask(self, kind: str, request: dict[str, Any]) -> Any:
        raise NotImplementedError


class StandIn(WebUI):
    """The stand-in; ``close`` takes it out of the process again.

    Args:
        extension: with AsynDM among its scripts.
        style: which host it stands for, one of :data:`STYLES`; default: by the environment.
    """

    def __init__(self, extension: bool = True, style: str | None = None) -> None:
        os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")
        self.name = style = style or os.environ.get("ASYNDM_STANDIN", "A1111")
        self.backend = {"Neo": "Forge", "Classic": "reForge"}.get(style, style)
        self.inpaints_alone_as_in_a_batch = style in ("A1111", "reForge")
        self._path = list(sys.path)
        sys.path[:0] = [str(STAND_IN), str(REPO / "tests")]  # the latter for clip_pieces
        if style != "A1111":
            sys.path[:0] = [str(STAND_IN_FORGE / "styles" / style.lower()), str(STAND_IN_FORGE)]
        try:
            _lend_k_diffusion()
            from modules import api, script_callbacks, scripts, sd_models, shared

            self.shared, self._models = shared, sd_models
            self._outputs = tempfile.TemporaryDirectory(prefix="standin-")
            shared.data_path = self._outputs.name
            self.checkpoint("sd1")
            paths = [STAND_IN / "scripts" / "xyz_grid.py"]
            if extension:
                paths += sorted((REPO / "scripts").glob("asyndm_*.py"))
            scripts.load_scripts(paths)
            script_callbacks.before_ui_callback()
            self.api = api.Api()
        except BaseException:
            self.close()
            raise

    def root(self) -> Any:
        if self.backend == "A1111":
            return super().root()
        return self.shared.sd_model.forge_objects.unet.model

    def network(self) -> Any:
        return super().network() if self.backend == "A1111" else self.root().diffusion_model

    def _load(self, info: Any) -> None:
        self._models.reload_model_weights(info=info)

    def close(self) -> None:
        sys.path[:] = self._path
        for name in list(sys.modules):
            if name.split(".")[0] in LENT or name.startswith(OURS):
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


def bare_images(
    host: WebUI, asked: dict[str, dict[str, tuple[str, dict[str, Any]]]], out: Path
) -> Any:
    """Images of a host that has no AsynDM, from a process of its own.

    Args:
        host: the one with it.
        asked: the jobs by checkpoint (in a real host also "sd1+NAME", with a flow model of
            flow_models.py in its place) and name, each the API's function and its request.
        out: a file, npz, that is made.

    Returns:
        {"checkpoint: name": uint8 [N, H, W, 3]}.
    """
    sent = {
        checkpoint: {
            name: (function, {key: _encoded(value) for key, value in request.items()})
            for name, (function, request) in jobs.items()
        }
        for checkpoint, jobs in asked.items()
    }
    subprocess.run(
        [sys.executable, str(Path(__file__))],
        input=json.dumps(sent).encode(),
        env={**os.environ, "OUT": str(out), "ASYNDM_STANDIN": host.name},
        check=True,
        capture_output=True,
    )
    return np.load(out)


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
    if os.environ.get("ASYNDM_WEBUI_DIR"):
        from real_hosts import real_host

        host = real_host()(extension=False)
    else:
        host = StandIn(extension=False)
    images = {}
    for checkpoint, jobs in asked.items():
        name, _, flow = checkpoint.partition("+")
        host.checkpoint(name)
        with contextlib.ExitStack() as stack:
            if flow:
                from flow_models import lent

                stack.enter_context(lent(host, flow))
            for key, (kind, request) in jobs.items():
                made = getattr(host, kind)(**request)
                images[f"{checkpoint}: {key}"] = np.stack(made.images)
    np.savez(os.environ["OUT"], **images)
