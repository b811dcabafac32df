"""The real WebUIs that ``ASYNDM_WEBUI_DIR`` may name, started once a process: see driver.py.

``ASYNDM_EXTENSIONS`` may name folders of other extensions that are to run beside AsynDM,
``ASYNDM_SETTINGS`` (JSON) settings of the host, ``ASYNDM_CHECKPOINTS`` another folder of
checkpoints than the checkout's own.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tempfile
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from driver import REPO, Made, WebUI
from works import EXTRA

COMMON_FLAGS = """--skip-torch-cuda-test --skip-version-check --no-download-sd-model
--disable-console-progressbars --no-hashing --api""".split()
A1111_FLAGS = """--use-cpu all --no-half --precision full --do-not-download-clip
--disable-safe-unpickle""".split()
FORGE_FLAGS = (
    """--always-cpu --all-in-fp32 --attention-pytorch --skip-python-version-check""".split()
)
# Forge Neo's command line ends at an option it does not know, and its options change with its
# versions: those of 2025-10 are Forge's, later ones ComfyUI's. Kept is what its parser knows.
NEO_FLAGS = (*COMMON_FLAGS, *FORGE_FLAGS)
NEO_FLAGS += ("--cpu", "--force-fp32", "--use-pytorch-cross-attention", "--disable-triton-backend")
# What Neo has and shows only where a user asks for it.
HIDDEN = {f"show_{name}": True for name in ("refiner", "mahiro", "rescale_cfg")}
PROMPT_BOXES = ("Prompt", "Negative Prompt", "Negative prompt")  # Neo's capital P


class Host(WebUI):
    """The real WebUI, started once a process.

    Args:
        extension: with AsynDM in its extensions.
    """

    flags = (*COMMON_FLAGS, *A1111_FLAGS)

    def __init__(self, extension: bool = True) -> None:
        self.folder = Path(os.environ["ASYNDM_WEBUI_DIR"]).resolve()
        data = make_data(extension, **EXTRA)
        sys.argv = ["webui.py", *self.flags, *places(self.folder, data)]
        sys.path = [p for p in sys.path if Path(p or ".").resolve() != REPO]
        sys.path.insert(0, str(self.folder))
        os.chdir(self.folder)
        self._initialize()
        from fastapi import FastAPI
        from modules import script_callbacks, shared, ui
        from modules.api.api import Api

        script_callbacks.before_ui_callback()  # as webui.py does
        ui.create_ui()
        self.shared = shared
        shared.sd_model  # noqa: B018 - loads it
        self.api = Api(FastAPI(), threading.Lock())
        self._keep_comments()

    def _keep_comments(self) -> None:
        """The lines below the image, which the hosts' API leaves out of its answer."""
        from modules.api import api

        own, self.comments = api.process_images, ""

        def process_images(p: Any) -> Any:
            processed = own(p)
            self.comments = processed.comments
            return processed

        api.process_images = process_images

    def _initialize(self) -> None:
        from modules import initialize

        initialize.imports()
        initialize.initialize()

    def _load(self, info: Any) -> None:
        from modules import sd_models

        self.shared.opts.set("sd_model_checkpoint", info.title, run_callbacks=False)
        sd_models.reload_model_weights(info=info)

    def _ask(self, kind: str, request: dict[str, Any]) -> Any:
        import torch
        from modules.api import models

        # The encoder of a picture that is sent draws before the job is seeded, in every host: two
        # equal jobs are one and the same picture only from the same random state.
        torch.manual_seed(0)
        self.comments = ""
        if kind == "txt2img":
            made = self.api.text2imgapi(models.StableDiffusionTxt2ImgProcessingAPI(**request))
        else:
            made = self.api.img2imgapi(models.StableDiffusionImg2ImgProcessingAPI(**request))
        made.info = json.dumps({"comments": self.comments, **json.loads(made.info)})
        return made


class ForgeHost(Host):
    """Forge main: its own backend, its own way to choose a checkpoint."""

    name = backend = "Forge"
    inpaints_alone_as_in_a_batch = False
    flags = (*COMMON_FLAGS, *FORGE_FLAGS)
    preset: tuple[Any, ...] = ()  # what else a change of checkpoint is told

    def network(self) -> Any:
        return self.root().diffusion_model

    def root(self) -> Any:
        return self.shared.sd_model.forge_objects.unet.model

    def txt2img(self, **request: Any) -> Made:
        # Without these its API fails in hires fix, or makes the second pass without guidance.
        hires = {"hr_additional_modules": ["Use same choices"], "hr_cfg": 4}
        return super().txt2img(**{**(hires if request.get("enable_hr") else {}), **request})

    def _initialize(self) -> None:
        from modules import timer  # noqa: F401 - reads the command line first, as webui.py does
        from modules_forge.initialization import initialize_forge

        initialize_forge()
        super()._initialize()

    def _load(self, info: Any) -> None:
        from modules import sd_models
        from modules_forge import main_entry

        main_entry.checkpoint_change(info.name, *self.preset, save=False, refresh=True)
        sd_models.forge_model_reload()


class NeoHost(ForgeHost):
    """Forge Neo: Forge main's backend without SD 2; a checkpoint goes with a preset."""

    name = "Neo"
    preset = (None,)

    def txt2img(self, **request: Any) -> Made:
        if request.get("enable_hr") and not self.shared.latent_upscale_modes:
            # 2026: pictures are resized only; without a name its own API fails.
            upscaler = request.get("hr_upscaler", "Latent")
            request["hr_upscaler"] = "None" if upscaler == "Latent" else upscaler
        return super().txt2img(**request)


class OldForgeHost(ForgeHost):
    """reForge and Forge Classic: the older backend, AUTOMATIC1111's way with checkpoints."""

    name = backend = "reForge"
    inpaints_alone_as_in_a_batch = True

    def txt2img(self, **request: Any) -> Made:
        return Host.txt2img(self, **request)

    def _load(self, info: Any) -> None:
        Host._load(self, info)


class ClassicHost(OldForgeHost):
    """Forge Classic."""

    name = "Classic"
    inpaints_alone_as_in_a_batch = False


def real_host() -> type[Host]:
    """What kind of WebUI ``ASYNDM_WEBUI_DIR`` holds."""
    folder = Path(os.environ["ASYNDM_WEBUI_DIR"])
    if (folder / "backend").is_dir():
        version = (folder / "modules_forge" / "forge_version.py").read_text()
        if '"neo' not in version:
            return ForgeHost
        NeoHost.flags = known(NEO_FLAGS, folder)
        return NeoHost
    if (folder / "ldm_patched").is_dir():
        return ClassicHost if not (folder / "k_diff").is_dir() else OldForgeHost
    return Host


def known(flags: Sequence[str], folder: Path) -> tuple[str, ...]:
    """Those of some options that a checkout's own parser knows."""
    ask = "from modules import cmd_args; print(*cmd_args.parser._option_string_actions)"
    told = subprocess.run(
        [sys.executable, "-c", ask], cwd=folder, check=True, capture_output=True, text=True
    )
    return tuple(flag for flag in flags if flag in told.stdout.split())


def make_data(extension: bool, **options: Any) -> Path:
    """A WebUI's data folder, with AsynDM in its extensions if asked for; ``options``: settings."""
    data = Path(tempfile.mkdtemp(prefix="webui-"))
    for name in ("extensions", "models", "tmp"):  # Neo does not make the last one
        (data / name).mkdir()
    # Live previews without a download: not every host ships a decoder for them.
    # Plots without loss: Neo's are JPEG.
    options = {"show_progress_type": "Approx cheap", "grid_format": "png", **HIDDEN, **options}
    options |= _version_mark() | json.loads(os.environ.get("ASYNDM_SETTINGS", "{}"))
    (data / "config.json").write_text(json.dumps(options))
    # As after a first start: in that one Neo pastes everything but the prompts, whose boxes hold
    # None until their defaults are written down.
    boxes = [f"{tab}/{box}/value" for tab in ("txt2img", "img2img") for box in PROMPT_BOXES]
    (data / "ui-config.json").write_text(json.dumps(dict.fromkeys(boxes, "")))
    if extension:
        (data / "extensions" / "asyndm").symlink_to(REPO)
    for other in filter(None, os.environ.get("ASYNDM_EXTENSIONS", "").split(os.pathsep)):
        (data / "extensions" / Path(other).name).symlink_to(other)
    return data


def checkpoints(folder: Path) -> Path:
    """Where the checkpoints of a checkout lie."""
    own = folder / "models" / "Stable-diffusion"
    return Path(os.environ.get("ASYNDM_CHECKPOINTS", own)).resolve()


def _version_mark() -> dict[str, str]:
    """What Neo wants to find in a configuration, or its start waits for a key to be pressed."""
    code = Path(os.environ["ASYNDM_WEBUI_DIR"]) / "modules" / "launch_utils.py"
    found = re.search(r"^(VERSION_UID)\b.*= *\"(.+)\"$", code.read_text("utf-8"), re.M)
    return dict([found.groups()]) if found else {}


def places(folder: Path, data: Path) -> list[str]:
    """The options that name a data folder and the checkpoints of a checkout."""
    options = {"data-dir": data, "ckpt-dir": checkpoints(folder)}
    made = [part for name, path in options.items() for part in (f"--{name}", str(path))]
    # Gradio 4 hands out the page's own scripts only if they lie in the data folder, or are allowed.
    for allowed in (folder, REPO):
        made += ["--gradio-allowed-path", str(allowed)]
    return made
