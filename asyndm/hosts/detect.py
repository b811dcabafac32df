"""Which WebUI this is: the only place that decides it."""

from __future__ import annotations

import importlib
import importlib.util
import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from asyndm.hosts.samplers import HostSamplers

log = logging.getLogger("asyndm")

# What every known host has; whatever lacks one of these is none of them.
_NEEDED = {
    "modules.sd_samplers": ("all_samplers", "all_samplers_map", "set_samplers"),
    "modules.sd_samplers_kdiffusion": ("KDiffusionSampler",),
    "modules.script_callbacks": ("on_cfg_denoiser", "on_before_ui"),
    "modules.prompt_parser": ("get_multicond_prompt_list",),
    "modules.ui_components": ("InputAccordion",),
    "modules.infotext_utils": ("image_from_url_text",),
}


@dataclass(frozen=True)
class Found:
    """The host.

    Attributes:
        name: for people.
        samplers: None where AsynDM cannot run.
        problem: then one line that says why; else "".
    """

    name: str
    samplers: HostSamplers | None
    problem: str = ""


def find_host() -> Found:
    """Look at the modules of this process; never raises."""
    name = host_name()
    missing = _missing() if name else "nothing of a WebUI that AsynDM knows"
    if not missing:
        try:
            return Found(name, _samplers(name))
        except (ImportError, AttributeError) as error:
            missing = " ".join(str(error).split())
    problem = (
        f"AsynDM does not know this WebUI ({missing}); images stay synchronous. It runs in "
        "AUTOMATIC1111 1.9 and 1.10, Forge, Forge Neo, reForge and Forge Classic."
    )
    log.warning(problem)
    return Found(name or "unknown", None, problem)


def host_name() -> str:
    """ "A1111", "Forge" (main and Neo), "reForge" (and Classic), or "" for an unknown host."""
    if _there("modules_forge"):
        if _there("backend.sampling.sampling_function"):
            return "Forge"
        return "reForge" if _there("ldm_patched.modules.samplers") else ""
    return "A1111" if _there("modules.sd_unet") and _there("modules.sd_hijack") else ""


def _samplers(name: str) -> HostSamplers:
    from asyndm.hosts.samplers import HostSamplers

    if name == "A1111":
        from asyndm.hosts.a1111 import A1111Run as Run
    else:
        from asyndm.hosts.forge import ForgeRun as Run
    return HostSamplers(Run)


def _missing() -> str:
    """The first thing a known host would have, "" where nothing is missing."""
    for module, names in _NEEDED.items():
        try:
            found = importlib.import_module(module)
        except ImportError:
            return f"it has no {module}"
        for name in names:
            if not hasattr(found, name):
                return f"its {module} has no {name}"
    return ""


def _there(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except (ImportError, ValueError):  # a parent that is missing, or a bare module
        return False
