"""The learned curve in a WebUI: its profile is told in the image's parameters."""

from __future__ import annotations

from typing import TYPE_CHECKING

from asyndm.hosts.infotext import PROFILE_KEY
from asyndm.hosts.levelling import hash_of

if TYPE_CHECKING:
    from asyndm.hosts.hosted import HostRun


def tell_profile(run: HostRun) -> None:
    """Which profile a run goes by, and whether it is another checkpoint's.

    Nothing is said of that where the host makes no hashes.
    """
    profile = run.director.profile
    if profile is None:
        return
    run.p.extra_generation_params[PROFILE_KEY] = profile.told
    if profile.of_another(hash_of(run.checkpoint())):
        run.telling.note(f"profile: {profile.name!r} was learned on another checkpoint.")
