"""Which WebUI this is: the only place that decides it."""

from __future__ import annotations

import importlib.util
import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING

from asyndm.hosts import asked

if TYPE_CHECKING:
    from asyndm.hosts.samplers import HostSamplers

log = logging.getLogger("asyndm")


@dataclass(frozen=True)
class Found:
    """The host.

    Attributes:
        name: for people.
        samplers: None where AsynDM cannot run.
        problem: then one line that says why; else "".
        lacks: one line for each other thing that the host does not have.
    """

    name: str
    samplers: HostSamplers | None
    problem: str = ""
    lacks: tuple[str, ...] = ()


def find_host() -> Found:
    """Look at the modules of this process; never raises."""
    name = host_name()
    lacking = asked.lacking(name) if name else []
    missing = next((text for thing, text in lacking if thing.needed), "")
    if not name:
        missing = "nothing of a WebUI that AsynDM knows"
    if not missing:
        lacks = tuple(asked.line(thing, text) for thing, text in lacking)
        try:
            found = Found(name, _samplers(name), lacks=lacks)
        except (ImportError, AttributeError) as error:
            missing = " ".join(str(error).split())
        else:
            for line in lacks:
                log.warning(line)
            return found
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


def _there(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except (ImportError, ValueError):  # a parent that is missing, or a bare module
        return False
