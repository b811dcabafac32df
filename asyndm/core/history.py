"""What a run did, step by step, for pictures of it."""

from __future__ import annotations

from dataclasses import dataclass, field

from torch import Tensor

from asyndm.core.schedule import PixelTime, resample


@dataclass(frozen=True)
class Frame:
    """One step in pictures, on the CPU, at the clock's grid: [B, gh, gw] each.

    Attributes:
        mask: within [0, 1], the object mask that steers the pixels *out of* this step.
        clock, sigma, timestep: of this step's network call.
        present: [B] bool, the images that have an object in the step the mask was read in; None =
            all.
    """

    mask: Tensor
    clock: Tensor
    sigma: Tensor
    timestep: Tensor
    present: Tensor | None = None


@dataclass
class History:
    """What a run did, step by step; kept on the device until :meth:`frames` asks for it.

    Attributes:
        last: [B, gh, gw], the mask that was read last; it steers the step that was not taken yet.
    """

    last: Tensor | None = None
    _steps: list[tuple[Tensor, PixelTime, Tensor, Tensor | None]] = field(default_factory=list)

    def add(
        self, mask: Tensor, time: PixelTime, timesteps: Tensor, present: Tensor | None = None
    ) -> None:
        """One step: its mask [B, gh, gw], noise levels, timestep table, images with an object."""
        self._steps.append((mask, time, timesteps, present))

    def __len__(self) -> int:
        return len(self._steps)

    def frames(self) -> list[Frame]:
        """All steps, copied to the CPU (waits for the device)."""
        frames = []
        for mask, time, timesteps, present in self._steps:
            index = resample(time.index, tuple(mask.shape[-2:]))  # the first call has one cell
            frames.append(
                Frame(
                    mask=mask.float().cpu(),
                    clock=time.clock_table[index].float().cpu(),
                    sigma=time.sigma_table[index].cpu(),
                    timestep=timesteps[index].float().cpu(),
                    present=None if present is None else present.cpu(),
                )
            )
        return frames
