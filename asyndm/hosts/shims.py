"""What hosts have under different names or not at all, in one place.

Everything is asked for (an attribute, a parameter of a function), no version is compared. What is
lost where a host lacks a thing: see asked.py.
"""

from __future__ import annotations

import importlib
import inspect
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from modules import (
    prompt_parser,
    script_callbacks,
    sd_models,
    sd_samplers,
    sd_samplers_common,
    shared,
)
from torch import Tensor

from asyndm.core.profile import FOLDER
from asyndm.hosts import asked

try:
    from modules.infotext_utils import PasteField
except ImportError:  # AUTOMATIC1111 1.9 takes plain pairs

    def PasteField(component: Any, target: Any) -> tuple[Any, Any]:
        return component, target


try:
    from modules import images
except ImportError:
    images = None

try:
    from modules.infotext_utils import image_from_url_text
except ImportError:
    image_from_url_text = None


def save_image(*arguments: Any, **named: Any) -> None:
    """The host's own, as it is now: other extensions exchange it. Nothing where there is none."""
    save = getattr(images, "save_image", None)
    if save is not None:
        save(*arguments, **named)


def painting_canvas() -> Callable[..., Any] | None:
    """The host's own canvas to paint on (``ForgeCanvas``); None where it has none of use."""
    if asked.CANVAS.missing():
        return None
    from modules_forge.forge_canvas.canvas import ForgeCanvas

    return ForgeCanvas


def before_ui(function: Callable[[], None]) -> None:
    """Have ``function`` called before the page is drawn, where the host does that."""
    register = getattr(script_callbacks, "on_before_ui", None)
    if register is not None:
        register(function)


def total_steps(sampler: str, steps: int) -> int:
    """The calls a sampler makes in so many steps; the steps where the host does not tell."""
    find = getattr(sd_samplers, "find_sampler_config", None)
    config = find(sampler) if find is not None else None
    return config.total_steps(steps) if config else steps


def prompt_schedules(
    texts: Sequence[str], steps: int, hires_steps: int | None
) -> list[list[list[Any]]]:
    """For each text [[last step, what is shown], ...]; [] where the host does not tell.

    Not every host has the older way.
    """
    if asked.SCHEDULES.missing():
        return []
    schedule = prompt_parser.get_learned_conditioning_prompt_schedules
    old = {}
    if "use_old_scheduling" in inspect.signature(schedule).parameters:
        old["use_old_scheduling"] = getattr(shared.opts, "use_old_scheduling", False)
    return schedule(texts, steps, hires_steps, **old)


def styled(prompt: str, names: Sequence[str]) -> str:
    """A prompt with the host's styles of these names, as the host makes it."""
    styles = getattr(shared, "prompt_styles", None)
    return prompt if styles is None else styles.apply_styles_to_prompt(prompt, list(names))


def presets_place() -> tuple[Path, str]:
    """(the folder of the user's presets, why nothing may be saved there: "" = it may)."""
    frozen = getattr(shared.cmd_opts, "freeze_settings", False)
    why = "the WebUI's settings are frozen (--freeze-settings); nothing is saved." if frozen else ""
    return Path(shared.data_path) / "asyndm-presets", why


def kept_tick(file: str, tab: str, label: str) -> bool | None:
    """Whether the user's own defaults (Settings > Defaults) tick a script's accordion.

    None where the host keeps that itself. Forge main keeps no accordion: it looks for one by
    comparing types with ``InputAccordion``, which is a function there.

    Args:
        file: name of the script's file.
        tab: "txt2img" or "img2img".
        label: of the accordion.
    """
    try:
        from modules import ui_loadsave
    except ImportError:
        return None
    kinds = [getattr(ui_loadsave, f"InputAccordion{end}", None) for end in ("", "Impl")]
    if any(map(inspect.isclass, kinds)) or not any(kinds):
        return None
    try:
        kept = json.loads(Path(shared.cmd_opts.ui_config_file).read_text("utf-8"))
        return kept.get(f"customscript/{file}/{tab}/{label}/value") is True
    except (AttributeError, OSError, ValueError):  # the host says so itself
        return False


def profiles_place() -> Path:
    """The folder of the profiles of the learned curve."""
    return Path(shared.data_path) / FOLDER


def norms_place() -> Path:
    """The folder of the tables of levelled norms."""
    return Path(shared.data_path) / "asyndm-norms"


def checkpoint_in_use(p: Any, model: Any) -> Any:
    """What the host knows of the checkpoint whose weights the network has now; None for nothing.

    A refiner may put other weights into the network that is there. AUTOMATIC1111 writes down in the
    model whose they are; Neo ("Reload state_dict only") leaves the first there, and keeps aside
    what it will load again.
    """
    if getattr(sd_samplers_common, "ORIGINAL_CHECKPOINT", None) is not None:
        return getattr(p, "refiner_checkpoint_info", None)
    return getattr(model, "sd_checkpoint_info", None)


def loaded_model() -> Any:
    """The host's ``sd_model`` that is loaded, None where none is: asking for it loads none."""
    return getattr(getattr(sd_models, "model_data", None), "sd_model", None)


def chosen_file() -> Path | None:
    """The file of the checkpoint that the user chose; None where the host does not tell."""
    name = getattr(shared.opts, "sd_model_checkpoint", None)
    match = getattr(sd_models, "get_closet_checkpoint_match", None)
    found = match(name) if match is not None and name else None
    return None if found is None else Path(found.filename)


def running_script(p: Any) -> str:
    """The title of the host's own script (Prompt matrix, SD upscale, ...) a job is in, else ""."""
    arguments = list(getattr(p, "script_args", None) or [0])
    scripts = getattr(getattr(p, "scripts", None), "selectable_scripts", None) or []
    chosen = arguments[0]
    if isinstance(chosen, bool) or not isinstance(chosen, int) or not 0 < chosen <= len(scripts):
        return ""
    return str(scripts[chosen - 1].title())


def detailed(p: Any) -> bool:
    """Whether ADetailer works on a job's images, as far as its script's arguments tell."""
    for script in getattr(getattr(p, "scripts", None), "alwayson_scripts", None) or []:
        if script.title() == "ADetailer":
            arguments = list(p.script_args[script.args_from : script.args_to])
            return bool(arguments) and arguments[0] is not False
    return False


def cond_batch() -> Callable[..., tuple[Tensor, Tensor]] | None:
    """(model, cond, uncond, x, sigma, options) -> D of both, in Forge's family; None elsewhere."""
    for name in ("backend.sampling.sampling_function", "ldm_patched.modules.samplers"):
        try:
            module = importlib.import_module(name)
        except ImportError:
            continue
        if hasattr(module, "calc_cond_uncond_batch"):
            return module.calc_cond_uncond_batch
    return None


def cheap_pictures(latents: Tensor) -> np.ndarray:
    """Latents [B, C, h, w] as the host's cheap live preview shows them: uint8 [B, h, w, 3].

    Raises:
        Exception: whatever a host says that has no such preview for the loaded model.
    """
    from modules import sd_vae_approx

    # One by one: Neo's looks at the first image of what it is given.
    made = [sd_vae_approx.cheap_approximation(latent[None]) for latent in latents]
    pictures = torch.cat(made) * 0.5 + 0.5
    return np.uint8(255 * pictures.clamp(0, 1).movedim(1, -1).cpu().numpy())
