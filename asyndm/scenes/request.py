"""What the embedded model is asked to draw."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from asyndm.core.settings import RULES, SettingsError, check_number, check_whole
from asyndm.core.sigmas import SCHEDULES

from .model import LATENT_SIZE
from .text import COUPLINGS

MAX_BATCH = 16
MAX_STEPS = 200


@dataclass(frozen=True)
class Request:
    """What to draw, and how, apart from AsynDM's own settings.

    Raises:
        SettingsError: a value that cannot be used, in one line.
    """

    prompt: str
    steps: int = 25
    cfg: float = 2.5
    seed: int = 0
    batch: int = 1  # image j has seed + j
    rule: str = "ddpm"
    schedule: str = "uniform"
    coupling: float = 1.0  # how much backgrounds know of the objects: 0, 0.5 or 1
    painted: np.ndarray | None = field(default=None, compare=False)  # [H, W], 1 = object

    def __post_init__(self) -> None:
        if not isinstance(self.prompt, str):
            raise SettingsError(f"prompt: {self.prompt!r} is not text.")
        for name, low, high in (
            ("steps", 1, MAX_STEPS),
            ("seed", 0, 2**32 - 1),
            ("batch", 1, MAX_BATCH),
        ):
            object.__setattr__(self, name, check_whole(name, getattr(self, name), low, high))
        object.__setattr__(self, "cfg", check_number("cfg", self.cfg, 0, 30))
        for name, choices in (("rule", RULES), ("schedule", SCHEDULES), ("coupling", COUPLINGS)):
            if getattr(self, name) not in choices:
                shown = ", ".join(str(choice) for choice in choices)
                raise SettingsError(
                    f"{name}: {getattr(self, name)!r} is unknown; choose one of {shown}."
                )
        if self.painted is not None:
            object.__setattr__(self, "painted", _checked_painting(self.painted))


def _checked_painting(painted: np.ndarray) -> np.ndarray:
    """A painted mask as float [H, W] within 0 and 1.

    Raises:
        SettingsError: it is not square as the picture is, empty, or no mask at all.
    """
    mask = np.asarray(painted, float)
    if mask.ndim != 2:
        raise SettingsError(
            f"painted mask: its shape {mask.shape} is not [height, width]; give one channel."
        )
    height, width = mask.shape
    if min(height, width) < LATENT_SIZE or abs(height - width) > 0.02 * max(height, width):
        raise SettingsError(
            f"painted mask: it is {width}x{height} pixels, the picture is square; "
            f"give equal sides of {LATENT_SIZE} pixels or more."
        )
    if not (np.isfinite(mask).all() and 0 <= mask.min() and mask.max() <= 1):
        raise SettingsError("painted mask: its values must lie within 0 and 1.")
    if not mask.any():
        raise SettingsError("painted mask: it is empty; paint where the objects shall be.")
    return mask
