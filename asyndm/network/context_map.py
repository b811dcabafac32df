"""The context map: what clearer context is worth to a network, by forward passes alone.

Clean pictures are noised with two levels, their objects at one and everything else at a lower one,
and the error of the denoised prediction D is compared with that of the same cells where the whole
picture stands at their level:

    change = error at (t_object, t_background) / error at one timestep for all - 1

over a grid that is even in the logarithm of the signal-to-noise ratio. Below 0 the context helps.

A mixed map of timesteps also *tells* the network where the objects are, which alone lowers the
error (an ideal denoiser of independent pixels gains 21% at a signal-to-noise ratio of 0.1), and a
network that pools its statistics over all pixels misreads every mixed map. Hence the controls, see
:mod:`asyndm.network.context_controls`; what may be said in the end is worked out in
:mod:`asyndm.network.context_claim`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor

from asyndm.core.parametrisation import Parametrisation
from asyndm.core.sampling import seeded_noise
from asyndm.core.schedule import PixelTime, resample
from asyndm.network.context_claim import TRUE, background_on_path
from asyndm.network.context_controls import CONTROLS, boxes, shifted, strange_context

TOP, BOTTOM = 990, 50  # timesteps of 1000 between which the levels lie
Size = tuple[int, int]


class Predictor(Protocol):
    """A network with a timestep for every pixel, and the conditions of one batch of pictures."""

    def __call__(self, x: Tensor, time: PixelTime) -> Tensor:
        """D [B, C, h, w] of noisy latents at the noise levels ``time``, without guidance."""

    def masks(self) -> Tensor | None:
        """bool [B, h, w] at any resolution, what attention took for objects in the last call.

        None where nothing reads it.
        """


def grid_levels(parametrisation: Parametrisation, count: int) -> list[int]:
    """Whole timesteps, falling, as even in log(snr) as whole ones can be.

    Args:
        parametrisation: of the model; tables of other lengths than 1000 are scaled.
        count: of the levels, at least 3.

    Raises:
        ValueError: fewer than 3, or a table too short for so many.
    """
    if count < 3:
        raise ValueError(f"levels: {count} are too few for a map; at least 3.")
    scale = len(parametrisation.sigmas) / 1000
    ends = torch.tensor([TOP * scale, BOTTOM * scale], dtype=torch.float64)
    first, last = log_snr(parametrisation, ends).tolist()
    table = log_snr(parametrisation, torch.arange(len(parametrisation.sigmas)).double())
    wanted = torch.linspace(first, last, count, dtype=torch.float64)
    levels = [int((table - each).abs().argmin()) for each in wanted]
    if len(set(levels)) < count:
        raise ValueError(f"levels: {count} are too many for {len(table)} timesteps.")
    return levels


def log_snr(parametrisation: Parametrisation, timesteps: Tensor) -> Tensor:
    """The natural logarithm of signal power over noise power at timesteps, same shape."""
    sigma = parametrisation.sigma(timesteps).double()
    signal = 1 - sigma if parametrisation.flow else torch.ones_like(sigma)
    return 2 * (signal / sigma).log()


class ContextMeter:
    """Collects the errors, batch by batch.

    Args:
        parametrisation: of the model.
        levels: timesteps, falling.
        controls: of :data:`CONTROLS`.
        curvature: the largest k whose path the controls are to cover.

    Attributes:
        pictures: measured so far.
        left_out: pictures without an object cell or without a background cell.
    """

    def __init__(
        self,
        parametrisation: Parametrisation,
        levels: Sequence[int],
        controls: Sequence[str] = tuple(CONTROLS),
        curvature: float = 0.9,
    ) -> None:
        unknown = [name for name in controls if name not in CONTROLS]
        if unknown:
            raise ValueError(f"controls: {unknown[0]!r} is none of {', '.join(CONTROLS)}.")
        self.parametrisation, self.levels = parametrisation, list(levels)
        self.controls, self.curvature = tuple(controls), curvature
        self.pictures = self.left_out = 0
        self._sigmas = parametrisation.sigma(torch.tensor(self.levels).double())
        self._errors: dict[tuple, list[Tensor]] = {}

    @property
    def calls(self) -> int:
        """Network calls a batch takes (one fewer a level where nothing reads attention)."""
        pairs, near = len(self._below()), len(self._near())
        more = len(self.levels) if "strange" in self.controls else 0
        return len(self.levels) + pairs + more + near * len(self.controls)

    def _below(self) -> list[tuple[int, int]]:
        """(object's, background's) places in the levels, the background clearer."""
        count = len(self.levels)
        return [(o, b) for o in range(count) for b in range(o + 1, count)]

    def _near(self) -> list[tuple[int, int]]:
        """Those that the paths of runs pass through, and the next below them."""
        steps, near = len(self.parametrisation.sigmas), []
        for o, b in self._below():
            lowest = background_on_path(self.levels[o], self.curvature, steps)
            if self.levels[b - 1] >= lowest:  # the level above is not yet below the path
                near.append((o, b))
        return near

    @torch.no_grad()
    def add(
        self,
        predict: Predictor,
        latents: Tensor,
        masks: Tensor,
        seeds: Sequence[int],
        tick: Callable[[], None] | None = None,
    ) -> None:
        """Measure one batch; nothing of it counts if an error ends it midway.

        Args:
            predict: the network with the conditions of these pictures.
            latents: clean, [B, C, h, w], B >= 2 (controls take another picture's mask).
            masks: bool [B, 1, h, w], true where objects are.
            seeds: [B], of each picture's noise, which is the same in all cells of the map.
            tick: called after every network call.

        Raises:
            ValueError: shapes that do not belong together, or a single picture.
        """
        if masks.shape != (len(latents), 1, *latents.shape[-2:]) or masks.dtype != torch.bool:
            raise ValueError(
                f"masks: bool [B, 1, h, w] are needed for latents {tuple(latents.shape)}, not "
                f"{masks.dtype} {tuple(masks.shape)}."
            )
        if len(latents) < 2:
            raise ValueError("pictures: controls take another picture's mask; give two or more.")
        clean = latents.float()
        noise = seeded_noise(clean, seeds)(None, None).to(clean)
        batch = _Batch(predict, self, clean, noise, tick or (lambda: None))
        mask = masks[:, 0].to(clean.device)
        both = mask.flatten(1).any(1) & ~mask.flatten(1).all(1)
        found: dict[tuple, Tensor] = {}

        plain, read = batch.uniform(clean)
        cells = {TRUE: (mask, mask, clean, plain)}
        for name, slow in (("shifted", shifted(mask)), ("foreign", mask.roll(1, 0))):
            cells[name] = slow, slow, clean, plain
        cells["boxed"] = boxes(mask), mask, clean, plain
        if "strange" in self.controls:
            strange = strange_context(clean, mask)
            cells["strange"] = mask, mask, strange, batch.uniform(strange)[0]
        for name in (TRUE, *self.controls):
            for o, b in self._below() if name == TRUE else self._near():
                if name == "attention":
                    if read[o] is None:  # no words in this batch: nothing to say
                        found[name, "objects", o, b] = torch.full((2, len(clean)), math.nan)
                        continue
                    slow, region, picture, alike = read[o], read[o] & mask, clean, plain
                else:
                    slow, region, picture, alike = cells[name]
                error = batch.mixed(picture, slow, o, b)
                found[name, "objects", o, b] = _pair(error, alike[o], region)
                if name == TRUE:
                    found[name, "background", o, b] = _pair(error, alike[b], ~mask)
        for place in range(len(self.levels)):
            for part, region in (("objects", mask), ("background", ~mask)):
                found[TRUE, part, place, place] = _pair(plain[place], plain[place], region)
        for key, pair in found.items():
            self._errors.setdefault(key, []).append(pair[:, both.cpu()])
        self.pictures += int(both.sum())
        self.left_out += int((~both).sum())

    def report(self) -> dict[str, Any]:
        """The rows: ``objects``, ``background``, and ``controls`` by name.

        A row has t_object, t_background, error (mean over pictures), change, se (its standard
        error over pictures); a control's also ``beyond``, the true mask's change minus its own,
        and ``beyond_se``, paired by picture.

        Raises:
            ValueError: fewer than two pictures were measured.
        """
        if self.pictures < 2:
            raise ValueError(
                f"Only {self.pictures} of the pictures had both objects and background; a map "
                "needs two."
            )
        steps = len(self.parametrisation.sigmas)
        by_control = {
            name: rows
            for name in self.controls
            if (rows := [self._row(name, "objects", o, b) for o, b in self._near()])
            and None not in rows
        }
        diagonal = [(place, place) for place in range(len(self.levels))]
        places = sorted([*diagonal, *self._below()])
        return {
            "pictures": self.pictures,
            "left_out": self.left_out,
            "steps": steps,
            "levels": self.levels,
            "log_snr": [
                round(value, 4)
                for value in log_snr(
                    self.parametrisation, torch.tensor(self.levels).double()
                ).tolist()
            ],
            "objects": [self._row(TRUE, "objects", *place) for place in places],
            "background": [self._row(TRUE, "background", *place) for place in places],
            "controls": by_control,
        }

    def _row(self, name: str, part: str, o: int, b: int) -> dict[str, float] | None:
        if (name, part, o, b) not in self._errors:
            return None
        pair = torch.cat(self._errors[name, part, o, b], dim=1)
        change, se, moves = _ratio(pair)
        if not math.isfinite(se):  # too few pictures have such a cell
            return None
        row = {
            "t_object": self.levels[o],
            "t_background": self.levels[b],
            "error": float(pair[0].nanmean()),
            "change": change,
            "se": se,
        }
        if name != TRUE:
            change, _, true = _ratio(torch.cat(self._errors[TRUE, part, o, b], dim=1))
            row["beyond"] = change - row["change"]
            row["beyond_se"] = _se(true - moves)
        return {key: _short(value) for key, value in row.items()}


class _Batch:
    """The network calls of one batch."""

    def __init__(self, predict, meter: ContextMeter, clean, noise, tick) -> None:
        self.predict, self.parametrisation, self.noise = predict, meter.parametrisation, noise
        self.sigmas = meter._sigmas.to(clean.device, torch.float32)
        self.size: Size = tuple(clean.shape[-2:])
        self.tick = tick

    def uniform(self, clean: Tensor) -> tuple[list[Tensor], list[Tensor | None]]:
        """At every level: the errors [B, h, w], and the mask that attention gives there."""
        errors, masks = [], []
        everywhere = torch.zeros(len(clean), 1, 1, dtype=torch.long, device=clean.device)
        for sigma in self.sigmas:
            errors.append(self._error(clean, sigma[None], everywhere))
            mask = self.predict.masks()
            masks.append(None if mask is None else resample(mask.to(clean.device), self.size))
        return errors, masks

    def mixed(self, clean: Tensor, slow: Tensor, o: int, b: int) -> Tensor:
        """The error [B, h, w] with the slow cells at level o and the others at level b."""
        return self._error(clean, self.sigmas[[b, o]], slow.long())

    def _error(self, clean: Tensor, table: Tensor, index: Tensor) -> Tensor:
        time = PixelTime(table, index, torch.zeros_like(table), self.size)
        sigma = time.sigma_map()
        signal = 1 - sigma if self.parametrisation.flow else 1.0
        denoised = self.predict(signal * clean + sigma * self.noise, time)
        self.tick()
        return (denoised.float() - clean).square().mean(1)


def _pair(error: Tensor, alike: Tensor, region: Tensor) -> Tensor:
    """[2, B] on the CPU: mean error in each picture's region, mixed and at one level; NaN = none.

    Args:
        error, alike: [B, h, w].
        region: bool [B, h, w].
    """
    weight = region.double()
    count = weight.sum((1, 2))
    sums = torch.stack([(each.double() * weight).sum((1, 2)) for each in (error, alike)])
    return (sums / count).cpu()


def _ratio(pair: Tensor) -> tuple[float, float, Tensor]:
    """(change of the mean, its standard error, each picture's share in that error [B]).

    By the delta method for a ratio of means over the same pictures.
    """
    error, alike = pair
    ratio = float(error.nanmean() / alike.nanmean())
    moves = (error - ratio * alike) / alike.nanmean()
    return ratio - 1, _se(moves), moves


def _se(moves: Tensor) -> float:
    moves = moves[~moves.isnan()]
    return float(moves.std() / math.sqrt(len(moves))) if len(moves) > 1 else math.inf


def _short(value: float) -> float:
    return value if isinstance(value, int) else float(f"{value:.5g}")
