"""What hosts have under different names or not at all, in one place; imports nothing of ours.

Everything is asked for (an attribute, a parameter of a function), no version is compared.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from modules import prompt_parser, shared

try:
    from modules.infotext_utils import PasteField
except ImportError:  # AUTOMATIC1111 1.9 takes plain pairs

    def PasteField(component: Any, target: Any) -> tuple[Any, Any]:
        return component, target


def painting_canvas() -> Callable[..., Any] | None:
    """The host's own canvas to paint on (``ForgeCanvas``); None where it has none."""
    try:
        from modules_forge.forge_canvas.canvas import ForgeCanvas
    except ImportError:
        return None
    return ForgeCanvas


def prompt_schedules(
    texts: Sequence[str], steps: int, hires_steps: int | None
) -> list[list[list[Any]]]:
    """For each text [[last step, what is shown], ...]; not every host has the older way."""
    schedule = prompt_parser.get_learned_conditioning_prompt_schedules
    old = {}
    if "use_old_scheduling" in inspect.signature(schedule).parameters:
        old["use_old_scheduling"] = getattr(shared.opts, "use_old_scheduling", False)
    return schedule(texts, steps, hires_steps, **old)


def presets_place() -> tuple[Path, str]:
    """(the folder of the user's presets, why nothing may be saved there: "" = it may)."""
    frozen = getattr(shared.cmd_opts, "freeze_settings", False)
    why = "the WebUI's settings are frozen (--freeze-settings); nothing is saved." if frozen else ""
    return Path(shared.data_path) / "asyndm-presets", why


def running_script(p: Any) -> str:
    """The title of the host's own script (Prompt matrix, SD upscale, ...) a job is in, else ""."""
    arguments = list(getattr(p, "script_args", None) or [0])
    scripts = getattr(getattr(p, "scripts", None), "selectable_scripts", None) or []
    chosen = arguments[0]
    if isinstance(chosen, bool) or not isinstance(chosen, int) or not 0 < chosen <= len(scripts):
        return ""
    return str(scripts[chosen - 1].title())
