"""One asynchronous run: the director moves the clocks, the network call tells the hooks.

Data flows one way: clock -> network call -> masks -> clock. `NetworkCall` is the only channel
between a sampling run and the hooks inside the network.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from asyndm.core.grids import Size, pool, resample
from asyndm.core.history import History
from asyndm.core.masks import MaskSource, as_mask
from asyndm.core.parametrisation import Parametrisation, align
from asyndm.core.profile import PROFILES, Profile
from asyndm.core.rows import Rows
from asyndm.core.rules.base import Between, euler_step
from asyndm.core.schedule import PixelClock, PixelTime, Steering
from asyndm.core.settings import CURVES, FIRST_STEPS, LEARNED, Settings, SettingsError
from asyndm.core.sigma_scale import SigmaScale
from asyndm.core.window import window_of


@dataclass
class NetworkCall:
    """What the hooks in the network need to know of the call in progress.

    Attributes:
        pixel_time: the noise levels; None = synchronous, hooks change nothing.
        timestep_table: [R] the network's timesteps of ``pixel_time.sigma_table``, by the host's
            rounding rule.
        rows: set by the host's denoiser before every network call.
        reading: masks are read from this call's attention; not from a second call inside a step.
        text_timestep: [B] what a transformer's text tokens are told of time; None = the scalar.
    """

    pixel_time: PixelTime | None = None
    timestep_table: Tensor | None = None
    rows: Rows | None = None
    reading: bool = True
    text_timestep: Tensor | None = None

    def clear(self) -> None:
        """Back to synchronous."""
        self.reading = True
        self.pixel_time = self.timestep_table = self.rows = self.text_timestep = None


class Director:
    """Moves every pixel's clock through one run after another.

    The paper's order: the mask read in step i steers step i + 1, and until a mask was read every
    pixel counts as object.

    Args:
        parametrisation: of the model.
        source: of the masks.
        curve, origin, first_step: as in :class:`~asyndm.core.settings.Settings`.
        allowed: [H, W] or [B, H, W], bool or within [0, 1], the region an inpainting run repaints;
            multiplies the mask in every step including the first.
        window: (start, end), fractions of the intervals; outside, masks do not steer and every
            pixel keeps its pace.
        lead: within [0, 1], how far pixels that inpainting keeps run ahead of the host's clock:
            their distance to go is (1 - lead) times the host's. Needs ``allowed`` and ``known``.
        known: [B, C, H, W], the clean latents that inpainting keeps.
        timestep: sigma table [R] -> the network's timesteps, if the host rounds them; default: the
            parametrisation's continuous ones.
        record: keep a :class:`History`.
        steered: [B] bool, the images that have an object in any step; the others are synchronous,
            the first step and a lead included. None = all.
        patch: side of a transformer's patches, see :class:`~asyndm.core.schedule.PixelTime`. A
            token that holds a kept pixel is not the object's, and leads only if all of it is kept.
        text_timestep: as in :class:`~asyndm.core.settings.Settings`.
        profile: of the learned curve.

    Raises:
        ValueError: an unknown first step, an ``allowed`` that cannot be used, or a lead without a
            kept region.
        SettingsError: the learned curve without its profile.
    """

    def __init__(
        self,
        parametrisation: Parametrisation,
        source: MaskSource,
        *,
        curve: str = "quadratic",
        origin: str = "host",
        first_step: str = "objects",
        allowed: Tensor | None = None,
        window: tuple[float, float] = (0.0, 1.0),
        lead: float = 0.0,
        known: Tensor | None = None,
        timestep: Callable[[Tensor], Tensor] | None = None,
        record: bool = False,
        steered: Tensor | None = None,
        patch: int = 1,
        text_timestep: str = "scalar",
        profile: Profile | None = None,
    ) -> None:
        if curve == LEARNED and profile is None:
            raise SettingsError("profile: the learned curve needs one; name a file of its folder.")
        if lead and (allowed is None or known is None):
            raise ValueError("lead: only a run that keeps a region of known latents can lead.")
        if first_step not in FIRST_STEPS:
            raise ValueError(f"first_step: {first_step!r} is none of {', '.join(FIRST_STEPS)}.")
        self.parametrisation, self.source = parametrisation, source
        self.curve, self.origin, self.first_step = curve, origin, first_step
        self.allowed = None if allowed is None else as_mask(torch.as_tensor(allowed))
        if self.allowed is not None:
            self.allowed = self.allowed if self.allowed.ndim == 3 else self.allowed[None]
        self.window, self.lead, self.known = window, lead, known
        self.timestep = timestep or parametrisation.timestep
        self.record, self.steered = record, steered
        self.patch, self.text_timestep = patch, text_timestep
        self.profile = profile if curve == LEARNED else None
        self.call = NetworkCall()
        self.clock: PixelClock | None = None
        self.history: History | None = None
        self._pending: Steering | None = None
        self._allowed_here: Tensor | None = None  # with patches: one value a token
        self._kept: Tensor | None = None

    @classmethod
    def from_settings(
        cls,
        settings: Settings,
        parametrisation: Parametrisation,
        source: MaskSource,
        *,
        allowed: Tensor | None = None,
        known: Tensor | None = None,
        timestep: Callable[[Tensor], Tensor] | None = None,
        record: bool = False,
        steered: Tensor | None = None,
        patch: int = 1,
    ) -> Director:
        """A director with the curve, origin, first step, window and lead of ``settings``.

        Raises:
            SettingsError: the learned curve's profile cannot be used.
        """
        # Where no pixel is ever an object nobody asks for the profile.
        learned = settings.curve == LEARNED and bool(source.curvatures)
        return cls(
            parametrisation,
            source,
            curve=settings.curve if learned or settings.curve != LEARNED else CURVES[0],
            origin=settings.origin,
            first_step=settings.first_step,
            allowed=allowed,
            window=(settings.start, settings.end),
            lead=settings.lead if allowed is not None and known is not None else 0.0,
            known=known,
            timestep=timestep,
            record=record,
            steered=steered,
            patch=patch,
            text_timestep=settings.text_timestep,
            profile=PROFILES.read(settings.profile) if learned else None,
        )

    @contextmanager
    def run(self, x: Tensor, sigmas: Tensor) -> Iterator[PixelTime]:
        """:meth:`begin`, and :meth:`end` whatever happens in between."""
        try:
            yield self.begin(x, sigmas)
        finally:
            self.end()

    def begin(self, x: Tensor, sigmas: Tensor) -> PixelTime:
        """Start a run.

        Args:
            x: noisy latents [B, C, H, W].
            sigmas: the host's whole list, [calls + 1].

        Returns:
            The noise levels of the first call, also in :attr:`call`.

        Raises:
            ValueError: a list of noise levels that cannot be sampled.
        """
        self.end()
        self.source.reset()
        size: Size = tuple(x.shape[-2:])
        # A repaint region is at the latents' resolution and must not be coarsened: a kept pixel
        # with another noise level than the host's would be blended wrongly.
        self._allowed_here = None
        if self.allowed is not None:
            region = resample(self.allowed.to(x.device), size)
            self._allowed_here = pool(region, self.patch)
            self._kept = pool(region, self.patch, lowest=False) == 0
        self._pending = self._restrict(self._first(x.device))
        scale = SigmaScale(sigmas, self.parametrisation)
        self.clock = PixelClock(
            scale,
            x.shape[0],
            tuple(self._pending.levels.shape[-2:]),
            size,
            self.source.curvatures,
            self.curve,
            self.origin,
            x.device,
            self.patch,
            None if self.profile is None else self.profile.kappas(scale),
            self.timestep,
        )
        self.history = History() if self.record else None
        while self.clock.step < 0:  # the authors' advance from the virtual timestep 1001
            self.clock.advance(self._steering(0))
        return self._announce()

    def enter(self, x: Tensor) -> Tensor:
        """The latents a run starts from, relabelled to the first call's noise levels.

        The authors' indexing puts objects of the first call above the host's first noise level
        while leaving the latents as they are *in the network's scaling*; in the sampler's scaling
        that is a factor. With the host's origin x is returned untouched, but for a kept region that
        leads: its noise is taken down to its own level.
        """
        if self._leads() is not None:
            host = torch.tensor(self.clock.scale.sigmas[0]).to(x.device, non_blocking=True)
            led = euler_step(x, self.known.to(x), host, self.clock_time.sigma_map())
            x = torch.where(self._leads()[:, None], led.to(x.dtype), x)
        if self.origin == "host":
            return x
        host = torch.tensor(self.clock.scale.sigmas[0], dtype=torch.float32)
        pixel = self.clock.pixel_time.sigma_map()
        if self._leads() is not None:
            pixel = torch.where(self._leads()[:, None], host.to(pixel), pixel)
        scale = self.parametrisation.c_in(host.to(x.device, non_blocking=True))
        return (x * (scale / self.parametrisation.c_in(align(pixel, x)))).to(x.dtype)

    def advance(self, i: int, denoised: Tensor) -> PixelTime:
        """After the network call of step i: move the clocks to step i + 1.

        Args:
            i: the step, counted from 0.
            denoised: its D, [B, C, H, W].

        Returns:
            The noise levels of call i + 1; after the last call those of the list's last entry.

        Raises:
            RuntimeError: no run is in progress, or a step was left out or repeated (a sampler with
                several network calls a step makes the others :meth:`inside`).
        """
        if self.clock is None or i != self.clock.step:
            at = "no run in progress" if self.clock is None else f"step {self.clock.step} due"
            raise RuntimeError(f"Step {i} cannot be taken: {at}.")
        steering = self._steering(i)
        # Also read after the last call: it empties the capture, and the mask is for nobody then.
        self._pending = self._restrict(self.source.levels(i, denoised))
        if i == 0:  # the first mask tells the grid, unless it was known before
            self.clock.refine(tuple(self._pending.levels.shape[-2:]))
        if self.history is not None:
            self.history.add(
                self._mask(steering),
                self.call.pixel_time,
                self.call.timestep_table,
                steering.present,
            )
            self.history.last = self._mask(self._pending)
        self.clock.advance(steering)
        return self._announce()

    def raise_noise(self, gamma: float) -> PixelTime:
        """Before the network call that is due: every pixel at (1 + gamma) times its noise level."""
        time = self.call.pixel_time
        raised = time.sigma_table * (1 + gamma)
        self._tell(replace(time, sigma_table=raised, timestep_table=None))
        return self.call.pixel_time

    @contextmanager
    def inside(self, now: PixelTime, between: Between) -> Iterator[PixelTime]:
        """Another network call inside the step just taken; its attention steers nothing.

        Args:
            now: the noise levels the step started from.
            between: of ``now`` and of the levels the clocks were moved to.
        """
        with self.again(now.towards(self.clock_time, between)) as time:
            yield time

    @contextmanager
    def again(self, time: PixelTime) -> Iterator[PixelTime]:
        """Another network call at these noise levels; its attention steers nothing."""
        call = self.call
        before = call.pixel_time, call.timestep_table, call.text_timestep, call.reading
        try:
            call.reading = False
            self._tell(time)
            yield call.pixel_time
        finally:
            call.pixel_time, call.timestep_table, call.text_timestep, call.reading = before

    def end(self) -> None:
        """Leave nothing behind but the history. Harmless when no run is in progress."""
        self.call.clear()
        self.clock = None
        self._pending = None
        self._allowed_here = self._kept = None

    @property
    def clock_time(self) -> PixelTime:
        """The noise levels of the call that is due, a kept region that leads included."""
        time, leads = self.clock.pixel_time, self._leads()
        left = self.clock.scale.intervals - self.clock.step
        if leads is None or left < 0:
            return time
        ahead = self.clock.scale.intervals - (1 - self.lead) * left
        return time.with_region(leads, ahead, self.clock.scale)

    def _leads(self) -> Tensor | None:
        """[B or 1, H, W] bool, the kept pixels that run ahead; None where there are none."""
        if not self.lead or self._allowed_here is None:
            return None
        leads = self._kept
        if self.patch > 1:
            height, width = self.clock.size
            for axis in (1, 2):
                leads = leads.repeat_interleave(self.patch, axis)
            leads = leads[:, :height, :width]
        return leads if self.steered is None else leads & self._steered(leads.device)

    def _steering(self, i: int) -> Steering:
        """What moves the clocks out of step i: the mask read before, inside the window."""
        start, end = window_of(self.window, self.clock.scale.intervals)
        if start <= i < end:
            return self._pending
        return Steering(torch.zeros_like(self._pending.levels), present=self._pending.present)

    def _announce(self) -> PixelTime:
        time = self.clock_time
        over = self.clock.step > self.clock.scale.intervals
        self._tell(None if over else time)
        return time

    def _tell(self, time: PixelTime | None) -> None:
        self.call.pixel_time = time
        self.call.timestep_table = self.call.text_timestep = None
        if time is None:
            return
        told = time.timestep_table
        self.call.timestep_table = self.timestep(time.sigma_table) if told is None else told
        if self.text_timestep == "objects" and not time.uniform:
            self.call.text_timestep = self._mean_of_objects(time)

    def _mean_of_objects(self, time: PixelTime) -> Tensor:
        """[B] the mean timestep of the object's pixels; of all of them where an image has none."""
        grid = self.clock.grid
        weight = (self._pending.levels > 0).float()
        if self._pending.weight is not None:
            weight = weight * self._pending.weight
        if time.grid != grid:  # a kept region that leads
            grid = tuple(time.size)
        weight = resample(weight.to(time.index.device), grid).expand(len(time.index), *grid)
        table = self.call.timestep_table.to(time.index.device)
        steps = table[time.index].to(weight.dtype)
        some = weight.sum((1, 2)) > 0
        weight = torch.where(some[:, None, None], weight, torch.ones_like(weight))
        return (steps * weight).sum((1, 2)) / weight.sum((1, 2))

    def _first(self, device: torch.device) -> Steering:
        if self.source.ready:
            return self.source.levels(-1, None)
        everywhere = len(self.source.curvatures) if self.first_step == "objects" else 0
        levels = torch.full((1, 1, 1), everywhere, dtype=torch.long, device=device)
        return Steering(levels if self.steered is None else levels * self._steered(device))

    def _steered(self, device: torch.device) -> Tensor:
        return self.steered.to(device, non_blocking=True)[:, None, None]

    def _restrict(self, steering: Steering) -> Steering:
        """``steering`` times the repaint region."""
        if self._allowed_here is None:
            return steering
        allowed = self._allowed_here
        levels = resample(steering.levels.to(allowed.device), tuple(allowed.shape[-2:]))
        weight = steering.weight
        if weight is not None:
            weight = resample(weight.to(allowed.device), tuple(allowed.shape[-2:]))
        if allowed.dtype == torch.bool:
            return Steering(levels * allowed, weight, steering.present)
        weight = allowed if weight is None else weight * allowed
        # Either may be the batch's.
        return Steering(*torch.broadcast_tensors(levels, weight), steering.present)

    def _mask(self, steering: Steering) -> Tensor:
        mask = (steering.levels > 0).float()
        mask = mask if steering.weight is None else mask * steering.weight
        mask = resample(mask, self.clock.grid)
        return mask.expand(self.clock.batch, *self.clock.grid)
