"""A method of guidance in the place where a pipeline puts its two predictions together.

The pipeline computes ``uncond + w * (cond - uncond)`` of what its network says. Here the network's
output is replaced by one that this formula turns into the method's prediction.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from asyndm.core.parametrisation import wide_float
from asyndm.core.rows import Rows
from asyndm.core.run import Director
from asyndm.core.schedule import PixelTime
from asyndm.core.settings import SettingsError
from asyndm.guidance import Guide, methods
from asyndm.pipelines.calls import RowsTold
from asyndm.pipelines.views import Plain, showing, shown


class Predictions:
    """The predictions of a run's network calls.

    Args:
        pipe: the pipeline.
        guide: of the run.
        batch: pictures.
        rows: says whose rows a call has.
        true_scale: of Flux's call, see :func:`~asyndm.pipelines.calls.true_scale`.
    """

    def __init__(
        self, pipe: Any, guide: Guide, batch: int, rows: RowsTold, true_scale: float | None = None
    ) -> None:
        self.pipe, self.guide, self.batch, self.rows = pipe, guide, batch, rows
        self._true_scale = true_scale
        self.director: Director | None = None
        self.view = Plain()
        self.parametrisation = guide.parametrisation
        self.guided = methods.guides(guide.settings)
        # Network and arguments of the last call with rows with the prompt, and of that without.
        self._calls: dict[bool, tuple[Any, tuple, dict]] = {}
        self._held: tuple[Tensor, Tensor] | None = None  # output and D of a step's first call
        if guide.passes is not None and getattr(pipe, "controlnet", None) is not None:
            raise SettingsError(
                "zigzag: a ControlNet's hints belong to one network call; set zigzag to 0, or take "
                "a pipeline without ControlNet."
            )

    def begin(self, director: Director, view: Plain) -> None:
        """A run starts."""
        self.director, self.view = director, view

    @property
    def scale(self) -> float:
        """The pipeline's guidance scale, 1 where it makes nothing without the prompt."""
        if self._true_scale is not None:
            return self._true_scale
        guided = getattr(self.pipe, "do_classifier_free_guidance", True)
        return float(self.pipe.guidance_scale) if guided else 1.0

    @contextmanager
    def beginning(self, network: Any) -> Iterator[None]:
        """Ahead of all other hooks."""

        def begin(module: Any, args: tuple, kwargs: dict) -> None:
            if not self.rows.asking:
                self._calls[self.rows.cond] = (module, args, _kept(kwargs))
                if self.rows.cond:  # where a step has two calls it is the first
                    self.guide.begin_prediction()

        handle = network.register_forward_pre_hook(begin, with_kwargs=True)
        try:
            yield
        finally:
            handle.remove()
            self._calls.clear()
            self._held = None

    @contextmanager
    def ending(self, network: Any) -> Iterator[None]:
        """Behind all other hooks."""
        handle = network.register_forward_hook(self._ended)
        try:
            yield
        finally:
            handle.remove()

    def passes(
        self,
        i: int,
        x: Tensor,
        denoised: Tensor,
        now: PixelTime,
        level: Tensor,
        landed: Tensor,
        host_landed: float,
    ) -> tuple[Tensor, Tensor]:
        """More network calls between a step's first one and its update, where the method asks."""
        guide = self.guide
        if guide.passes is None:
            return x, denoised

        def ask(again: Tensor, scale: float | None = None) -> Tensor:
            with self.director.again(now):
                return self._again(again, level, self.scale if scale is None else scale)

        return guide.passes(i, x, denoised, level, landed, host_landed, ask)

    def _again(self, x: Tensor, level: Tensor, scale: float) -> Tensor:
        """The guided D of other latents at the levels of the step."""
        guide = self.guide
        guide.begin_prediction()
        wants = guide.wants(scale)
        cond = uncond = None
        if wants.uncond and self._both:
            uncond = self._ask(x, level, cond=False)
        if wants.cond or uncond is None:
            cond = self._ask(x, level, cond=True)
        if cond is None:
            guide.uncond = uncond
            return uncond
        return self._combined(x, level, cond, uncond, scale)

    def _ended(self, module: Any, args: tuple, output: Any) -> Any:
        if self.rows.asking:
            return None
        raw = output[0] if isinstance(output, tuple) else output.sample
        said = self.view.opened(raw)
        wide = wide_float(said.device)
        level = self.director.clock_time.sigma_map().to(said.device, wide)
        given = shown(*self._calls[self.rows.cond][1:])
        given = self.view.first(given, said.shape[1])[-self.batch :]
        x = self.view.opened(given).to(wide) / self.parametrisation.c_in(level)
        halves = said.unflatten(0, (-1, self.batch))
        guesses = [self.parametrisation.denoised(x, half.to(wide), level) for half in halves]
        if self.rows.split:
            if self.rows.cond:
                self._held = said, guesses[0]
                return None
            halves = torch.stack([said, self._held[0]])
            guesses.append(self._held[1])
        uncond = guesses[0] if len(guesses) == 2 else None
        denoised = self._combined(x, level, guesses[-1], uncond, self.scale)
        if not self.guided:
            return None  # it was measured
        wanted = self.parametrisation.output(x, denoised, level)
        replaced = self.view.closed(self._before_scale(wanted, halves)).to(raw.dtype)
        if isinstance(output, tuple):
            return (replaced, *output[1:])
        output.sample = replaced
        return output

    def _before_scale(self, wanted: Tensor, halves: Tensor) -> Tensor:
        """What the pipeline's formula turns into ``wanted``.

        Both halves alike, whatever its scale; but guidance_rescale compares with the prediction
        with the prompt, which has to stay there then; and so does that of a call which is over.
        """
        if len(halves) == 1:
            return wanted
        cond, scale = wanted, self.scale
        if self.rows.split or (getattr(self.pipe, "_guidance_rescale", 0.0) and scale != 1):
            cond = halves[1].to(wanted)
        uncond = wanted if cond is wanted else (wanted - scale * cond) / (1 - scale)
        return uncond if self.rows.split else torch.cat([uncond, cond])

    def _combined(
        self, x: Tensor, level: Tensor, cond: Tensor, uncond: Tensor | None, scale: float
    ) -> Tensor:
        perturbed = None
        if self.guide.wants(scale).perturbed:
            with self.guide.perturbing():
                perturbed = self._ask(x, level, cond=True)
        return self.guide.combine(cond, uncond, level, scale, perturbed)

    @property
    def _both(self) -> bool:
        """The pipeline's own call had rows without the prompt."""
        _, args, kwargs = self._calls[True]
        return self.rows.split or len(shown(args, kwargs)) == 2 * self.batch

    def _ask(self, x: Tensor, level: Tensor, cond: bool) -> Tensor:
        """D of one more network call, with one row a picture."""
        network, args, kwargs = self._calls[cond or not self.rows.split]
        before = shown(args, kwargs)
        rows, batch = len(before), self.batch
        taken = slice(rows - batch, rows) if cond else slice(0, batch)
        new = self.view.closed(x * self.parametrisation.c_in(level))
        new = self.view.joined(new, before[taken])
        if rows > batch:
            args, kwargs = _rows_of((args, kwargs), rows, taken)
        args, kwargs = showing(args, kwargs, new)
        call, before = self.guide.call, self.guide.call.rows
        call.rows = Rows.of(range(batch), [0 if cond else -1] * batch, x.device)
        self.rows.asking = True
        try:
            output = network(*args, **_kept(kwargs))
        finally:
            self.rows.asking, call.rows = False, before
        said = self.view.opened(output[0] if isinstance(output, tuple) else output.sample)
        return self.parametrisation.denoised(x, said.to(x.dtype), level)


def _kept(kwargs: dict[str, Any]) -> dict[str, Any]:
    """Arguments whose dictionaries stay as they are: networks take IP-Adapter's pictures out of
    theirs, and pipelines put others in.
    """
    return {name: dict(v) if isinstance(v, dict) else v for name, v in kwargs.items()}


def _rows_of(value: Any, rows: int, taken: slice) -> Any:
    """What belongs to some rows of a network call's arguments, wherever tensors have all rows."""
    if isinstance(value, Tensor):
        return value[taken] if value.ndim and len(value) == rows else value
    if isinstance(value, (tuple, list)):
        return type(value)(_rows_of(each, rows, taken) for each in value)
    if isinstance(value, dict):
        return {key: _rows_of(each, rows, taken) for key, each in value.items()}
    return value
