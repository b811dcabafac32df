"""One call of a pipeline with a noise level a pixel: what stands around its scheduler and network.

The pipeline's own loop runs. Its scheduler's ``scale_model_input``, ``step`` and ``add_noise`` are
shadowed on the instance for the one call, and hooks sit in its network; the scalar timestep that
the loop hands around stays the pipeline's, for whatever it decides by it. Loops of transformers ask
their scheduler for ``step`` and ``scale_noise`` alone: there the network's first call begins a run.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import wraps
from typing import Any

import torch
from torch import Tensor

from asyndm.core.masks import MaskSource
from asyndm.core.parametrisation import wide_float
from asyndm.core.rules import make_rule
from asyndm.core.rules.base import Rule
from asyndm.core.run import Director, NetworkCall
from asyndm.core.settings import Settings
from asyndm.core.shadow import shadowed
from asyndm.guidance import Guide
from asyndm.network import AttentionCapture, RowsMismatch, attach, is_transformer, patch_of
from asyndm.pipelines.calls import RowsTold, network_of
from asyndm.pipelines.guided import Predictions
from asyndm.pipelines.kept import Kept
from asyndm.pipelines.levelling import norms_for
from asyndm.pipelines.schedulers import (
    HostTimesteps,
    Levels,
    first_index,
    form_of,
    parametrisation_of,
)
from asyndm.pipelines.views import Packed, Plain, is_packed, showing, shown

# (size of the latents, device) -> the masks of a run
SourceOf = Callable[[tuple[int, int], torch.device], MaskSource]


_OF_UNETS = ("scale_model_input", "step", "add_noise")
_OF_TRANSFORMERS = ("step", "scale_noise")


class SteeredRun:
    """A call in progress.

    Args:
        pipe: the pipeline.
        settings: the user's.
        batch: pictures of the call.
        source: makes the masks when the latents' size is known.
        capture: reads attention; None = no mask needs it.
        steered: [B] the pictures that have an object; None = all.
        eta: of the call, which DDIM takes.
        still: no pixel's clock differs from the pipeline's.
        record: keep a film.
        true_scale: of Flux's call, see :func:`~asyndm.pipelines.calls.true_scale`.
        say: told what a user should know, one line each.
    """

    def __init__(
        self,
        pipe: Any,
        settings: Settings,
        batch: int,
        source: SourceOf,
        capture: AttentionCapture | None = None,
        steered: list[bool] | None = None,
        eta: float = 0.0,
        still: bool = False,
        record: bool = True,
        true_scale: float | None = None,
        say: Callable[[str], Any] = str,
    ) -> None:
        self.pipe, self.settings, self.batch = pipe, settings, batch
        self.scheduler, self.network = pipe.scheduler, network_of(pipe)
        self.transformer = is_transformer(self.network)
        self.form = form_of(self.scheduler, self.transformer)
        self.parametrisation = parametrisation_of(self.scheduler)
        self.kept = Kept(pipe, batch, settings)
        self.call = NetworkCall()
        self.guide = Guide(settings, self.parametrisation, self.call, batch, 0, still=still)
        self.director: Director | None = None
        self.view = Plain()
        self._norms = None
        if settings.norms != "host" and not still and not self.transformer:
            self._norms = norms_for(self.parametrisation, say)
        self._source, self._capture = source, capture
        self._steered = None if steered is None or all(steered) else torch.tensor(steered)
        self._eta, self._still, self._record = eta, still, record
        self._stack = ExitStack()
        rows = RowsTold(self.network, self.call, batch, (true_scale or 1.0) > 1)
        self._rows = rows
        self._predictions = Predictions(pipe, self.guide, batch, rows, true_scale)
        self._levels: Levels | None = None
        self._rule: Rule | None = None
        self._index = self._step = 0  # in the scheduler's list, and in this run's

    @contextmanager
    def running(self) -> Iterator[None]:
        """Around the pipeline's own call; nothing stays behind it."""
        with self._stack as stack:
            scheduler = self.scheduler
            for name in _OF_TRANSFORMERS if self.transformer else _OF_UNETS:
                own = getattr(scheduler, name)
                stack.enter_context(shadowed(scheduler, name, _standing_in(own, self)))
            stack.enter_context(self.kept.watching())
            stack.callback(self._end)
            self._attach()
            yield

    def _end(self) -> None:
        if self.director is not None:
            self.director.end()

    # --- what stands in for the scheduler's own ---

    def scale_model_input(self, own: Callable, sample: Tensor, timestep: Any) -> Tensor:
        scaled = own(sample, timestep)  # it counts, and remembers that it was called
        rows = sample.unflatten(0, (-1, self._batch_of(sample)))
        if self.director is None:
            self._begin(rows[0], timestep)
        if self._entering:
            rows = torch.stack([self._in_network(self._entered(part)) for part in rows])
        elif not self.form.preserving:
            rows = torch.stack([self._in_network(part) for part in rows])
        else:
            return scaled
        return rows.flatten(0, 1).to(sample.dtype)

    def step(self, own: Callable, *args: Any, **kwargs: Any) -> Any:
        given = inspect.signature(own).bind(*args, **kwargs)
        given.apply_defaults()
        given = given.arguments
        output, sample = given["model_output"], given["sample"]
        output, drawn_like = self.view.opened(output), output
        director, i = self.director, self._step
        now = director.clock_time
        wide = wide_float(sample.device)
        x, level = self._entered(sample).to(wide), now.sigma_map().to(wide)
        denoised = self.parametrisation.denoised(x, output.to(wide), level)
        after = director.advance(i, denoised)
        landed = self._landed(after.sigma_map().to(wide))
        host = self._levels.sigmas[i].item(), self._levels.landing[i]
        x, denoised = self._predictions.passes(i, x, denoised, now, level, landed, host[1])
        first_order = self.form.first_order(self.scheduler, self._index)
        rule = self._new_rule() if first_order else self._rule
        if rule.needs_uncond:
            rule.uncond = self.guide.uncond.to(wide)
        noise = self._noise(drawn_like, given)
        draw = None if noise is None else lambda *ends: noise.to(wide)
        x = rule.step(x, denoised, level, landed, *host, draw)
        self._index, self._step = self._index + 1, i + 1
        if hasattr(self.scheduler, "_step_index"):
            self.scheduler._step_index = self._index
        made = self.view.closed(self._as_sample(x, landed)).to(sample.dtype)
        if given.get("return_dict", True):
            from diffusers.schedulers.scheduling_utils import SchedulerOutput

            return SchedulerOutput(prev_sample=made)
        return made, denoised.to(sample.dtype)

    def add_noise(self, own: Callable, clean: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
        """What inpainting keeps is at its own noise level, once the run has begun."""
        return self._noised(own(clean, noise, timesteps), clean, noise)

    def scale_noise(
        self, own: Callable, sample: Tensor, timestep: Any = None, noise: Tensor | None = None
    ) -> Tensor:
        """As :meth:`add_noise`."""
        return self._noised(own(sample, timestep, noise), sample, noise)

    def _noised(self, plain: Tensor, clean: Tensor, noise: Tensor) -> Tensor:
        if self.director is None or not self.director.lead:
            return plain
        level = self.director.clock_time.sigma_map().to(clean.device)
        clean, noise = self.view.opened(clean.float()), self.view.opened(noise.float())
        share = 1 - level if self.parametrisation.flow else 1.0
        made = self._as_sample(share * clean + noise * level, level)
        return self.view.closed(made).to(plain.dtype)

    # --- beginning ---

    def _called(self, module: Any, args: tuple, kwargs: dict) -> tuple | None:
        """Of a transformer, ahead of all other hooks: a run begins, and enters its noise levels."""
        given = shown(args, kwargs)
        channels = self.pipe.vae.config.latent_channels
        if self.director is None:
            if is_packed(module):
                self.view = self.kept.view = Packed.of(args, kwargs)
            first = self.view.first(given, channels)[: self._batch_of(given)]
            self._begin(self.view.opened(first), None)
        if not self._entering or self._rows.asking:
            return None
        halves = self.view.first(given, channels).unflatten(0, (-1, self.batch))
        entered = [self.view.closed(self._entered(half)) for half in halves]
        return showing(args, kwargs, self.view.joined(torch.cat(entered), given))

    def _begin(self, sample: Tensor, timestep: Any) -> None:
        first = first_index(self.scheduler, timestep)
        left = len(self.scheduler.timesteps) - first
        calls = min(getattr(self.pipe, "_num_timesteps", None) or left, left)
        self._levels = levels = self.form.levels(self.scheduler, first, calls)
        self._index = first
        size = tuple(sample.shape[-2:])
        director = Director.from_settings(
            self.settings,
            self.parametrisation,
            self._source(size, sample.device),
            allowed=None if self._still else self.kept.allowed,
            known=None if self._still else self.kept.known,
            timestep=self._timesteps(levels, sample.dtype),
            record=self._record and not self._still,
            steered=self._steered,
            patch=patch_of(self.network),
        )
        director.call = self.call
        director.begin(sample, levels.sigmas)
        self.director = director
        self.guide.begin(levels.sigmas.tolist(), calls)
        self._predictions.begin(director, self.view)
        self._rule = self._new_rule()

    def _timesteps(self, levels: Levels, dtype: torch.dtype) -> Callable[[Tensor], Tensor]:
        """Noise levels to what the network is told."""
        own = HostTimesteps(self.parametrisation, levels)
        if not is_packed(self.network):
            return own
        # Flux's pipelines round to the latents' type before they divide.
        return lambda sigma: own(sigma).to(dtype) / 1000

    def _attach(self) -> None:
        """Hooks; the second of them says whose rows a network call has."""
        enter, network = self._stack.enter_context, self.network
        if self.transformer:
            first = network.register_forward_pre_hook(self._called, with_kwargs=True)
            self._stack.callback(first.remove)
        enter(self._rows.watching())
        enter(self._predictions.beginning(network))
        enter(self.guide.watching(network))
        enter(attach(network, self.call, self._capture, self._norms))
        enter(self._predictions.ending(network))

    # --- scalings ---

    def _batch_of(self, sample: Tensor) -> int:
        if len(sample) % self.batch:
            raise RowsMismatch(
                f"The scheduler was given {len(sample)} latents for {self.batch} pictures; "
                f"{type(self.pipe).__name__} cannot be steered."
            )
        return self.batch

    @property
    def _entering(self) -> bool:
        """The latents are not at the first call's noise levels yet."""
        director = self.director
        return self._step == 0 and (director.origin != "host" or director.lead > 0)

    def _entered(self, sample: Tensor) -> Tensor:
        """x = x0 + sigma * noise of the pipeline's latents, in float32 or wider."""
        director, x = self.director, self.view.opened(sample.float())
        if self._entering:
            host = torch.tensor(self._levels.sigmas[0].item(), device=x.device)
            if self.form.preserving:
                x = x / self.parametrisation.c_in(host)
            return director.enter(x)
        if self.form.preserving:
            x = x / self.parametrisation.c_in(director.clock_time.sigma_map()).to(x.device)
        return x

    def _in_network(self, x: Tensor) -> Tensor:
        return x * self.parametrisation.c_in(self.director.clock_time.sigma_map()).to(x.device)

    def _as_sample(self, x: Tensor, level: Tensor) -> Tensor:
        return x * self.parametrisation.c_in(level) if self.form.preserving else x

    def _landed(self, level: Tensor) -> Tensor:
        """Where the step leads, from the levels of the call that follows."""
        lands, follows = self._levels.landing[self._step], self._levels.sigmas[self._step + 1]
        return level if lands == follows else level * (lands / follows.item())

    # --- the step itself ---

    def _new_rule(self) -> Rule:
        """The rule of the scheduler's steps; a new one remembers no step."""
        name, options = self.form.rule(self.scheduler, self.settings, self._eta)
        rule = self.guide.rule(name, **options)
        if not isinstance(rule, Rule):
            rule = make_rule(rule, flow=self.parametrisation.flow, **options)
        rule.begin(self._levels.sigmas.tolist())
        return rule

    def _noise(self, output: Tensor, given: dict[str, Any]) -> Tensor | None:
        """Drawn exactly when and as the scheduler itself draws."""
        if not self.form.draws(self.scheduler.config, given):
            return None
        if given.get("variance_noise") is not None:
            return given["variance_noise"]
        from diffusers.utils.torch_utils import randn_tensor

        return self.view.opened(
            randn_tensor(
                output.shape,
                generator=given.get("generator"),
                device=output.device,
                dtype=self.form.noise_dtype or output.dtype,
            )
        )


def _standing_in(own: Callable, run: SteeredRun) -> Callable:
    """With the signature of ``own``, which pipelines ask for ``eta`` and ``generator``."""
    does = getattr(run, own.__name__)

    @wraps(own)
    def standing_in(*args: Any, **kwargs: Any) -> Any:
        return does(own, *args, **kwargs)

    return standing_in
