"""Stands for ``modules/scripts.py``: scripts are loaded, drawn and called; their errors logged."""

from __future__ import annotations

import importlib.util
import logging
import sys
from collections import namedtuple
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import gradio as gr

AlwaysVisible = object()
ScriptClassData = namedtuple("ScriptClassData", ["script_class", "path", "basedir", "module"])
scripts_data: list[ScriptClassData] = []
HOOKS = (
    "before_process", "process", "before_process_batch", "after_extra_networks_activate",
    "process_batch", "process_before_every_sampling", "before_hr", "on_mask_blend", "post_sample",
    "postprocess_batch", "postprocess_image", "postprocess",
)  # fmt: skip


class MaskBlendArgs:
    """For ``on_mask_blend``: a script may exchange ``blended_latent``."""

    def __init__(
        self, current_latent, nmask, init_latent, mask, blended_latent, denoiser=None, sigma=None
    ) -> None:
        self.current_latent, self.nmask, self.init_latent = current_latent, nmask, init_latent
        self.mask, self.blended_latent = mask, blended_latent
        self.denoiser, self.sigma = denoiser, sigma
        self.is_final_blend = denoiser is None


def blend(denoiser: Any, latent: Any, sigma: Any) -> Any:
    """What is repainted with what is kept, as scripts wish; in a denoiser's step."""
    d = denoiser
    blended = latent * d.nmask + d.init_latent * d.mask
    args = MaskBlendArgs(latent, d.nmask, d.init_latent, d.mask, blended, d, sigma)
    if d.p.scripts is not None:
        d.p.scripts.on_mask_blend(d.p, args)
    return args.blended_latent


class PostSampleArgs:
    def __init__(self, samples) -> None:
        self.samples = samples


class PostprocessImageArgs:
    def __init__(self, image) -> None:
        self.image = image


class Script:
    """What scripts derive from; the hooks are added below, doing nothing."""

    name = filename = None
    alwayson = is_txt2img = is_img2img = False
    args_from = args_to = 0
    infotext_fields: Sequence | None = None
    paste_field_names: Sequence[str] | None = None
    controls: Sequence[Any] | None = None  # what ui() gave, kept by the host

    def title(self) -> str:
        raise NotImplementedError

    def ui(self, is_img2img: bool) -> list | None:
        return None

    def show(self, is_img2img: bool) -> Any:
        return True

    def run(self, p: Any, *args: Any) -> Any:
        """Of a script that is selected: in the place of the host's own processing."""


def _nothing(self: Script, *given: Any, **named: Any) -> None:
    pass


for _hook in HOOKS:
    setattr(Script, _hook, _nothing)


def load_scripts(paths: Sequence[Path]) -> None:
    """Run the files; the folder above ``scripts`` is on the path only for as long."""
    global scripts_txt2img, scripts_img2img
    scripts_data.clear()
    for path in paths:
        base = str(path.parent.parent)
        sys.path.insert(0, base)
        try:
            # As in the host, a module's name is its file's, and it is not in sys.modules.
            spec = importlib.util.spec_from_file_location(path.name, path)
            module = importlib.util.module_from_spec(spec)
            spec.loader.exec_module(module)
        finally:
            sys.path.remove(base)
        for value in vars(module).values():
            if isinstance(value, type) and issubclass(value, Script) and value is not Script:
                scripts_data.append(ScriptClassData(value, str(path), base, module))
    scripts_txt2img, scripts_img2img = ScriptRunner(False), ScriptRunner(True)


class ScriptRunner:
    """The scripts of one tab.

    Attributes:
        inputs: all their components; the first one selects a script.
    """

    def __init__(self, is_img2img: bool) -> None:
        self.is_img2img = is_img2img
        self.scripts: list[Script] = []
        self.inputs: list[Any] = [None]
        self.infotext_fields: list[Any] = []
        self.paste_field_names: list[str] = []
        for data in scripts_data:
            script = data.script_class()
            script.filename = data.path
            script.is_img2img, script.is_txt2img = is_img2img, not is_img2img
            shown = script.show(is_img2img)
            script.alwayson = shown is AlwaysVisible
            if shown:
                self.scripts.append(script)
        self.alwayson_scripts = [script for script in self.scripts if script.alwayson]
        self.selectable_scripts = [script for script in self.scripts if not script.alwayson]

    def setup_ui(self) -> None:
        with gr.Blocks():
            for script in (*self.alwayson_scripts, *self.selectable_scripts):
                script.args_from = len(self.inputs)
                try:
                    controls = script.ui(self.is_img2img)
                    script.name = script.title().lower()
                except Exception:
                    logging.exception("error in the page of %s", script.filename)
                    controls = None
                script.controls = controls
                self.inputs += controls or []
                script.args_to = len(self.inputs)
                self.infotext_fields += script.infotext_fields or []
                self.paste_field_names += script.paste_field_names or []

    def defaults(self) -> list[Any]:
        """What the arguments are where a request does not say; draws the pages once more."""
        values = [0] + [None] * (len(self.inputs) - 1)
        with gr.Blocks():
            for script in self.scripts:
                script.controls = controls = script.ui(self.is_img2img) or []
                values[script.args_from : script.args_to] = [c.value for c in controls]
        return values

    def run(self, p: Any, index: int, *args: Any) -> Any:
        script = self.selectable_scripts[index - 1]
        return script.run(p, *(index, *args)[script.args_from : script.args_to])

    def call(self, hook: str, p: Any, *given: Any, **named: Any) -> None:
        for script in self.alwayson_scripts:
            arguments = p.script_args[script.args_from : script.args_to]
            try:
                getattr(script, hook)(p, *given, *arguments, **named)
            except Exception:
                logging.exception("error in %s of %s", hook, script.filename)

    def __getattr__(self, name: str) -> Any:
        if name not in HOOKS:
            raise AttributeError(name)
        return lambda p, *given, **named: self.call(name, p, *given, **named)


scripts_txt2img: ScriptRunner | None = None
scripts_img2img: ScriptRunner | None = None
