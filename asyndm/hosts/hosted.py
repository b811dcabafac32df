"""One asynchronous run inside a WebUI: what all hosts share.

The host keeps its scalar sigma for everything it does itself. The map of noise levels acts
around the network only, below the CFG denoiser, and only for as long as one sampling call lasts,
so that previews, masks and other extensions see the true latents and the true denoised
prediction. How a host is entered there is told by its own file.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from contextlib import AbstractContextManager, ExitStack
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from asyndm.core.found import Found
from asyndm.core.masks import GivenMasks, MaskSource
from asyndm.core.painted import curvatures_of, given_masks
from asyndm.core.parametrisation import Parametrisation
from asyndm.core.run import Director, NetworkCall
from asyndm.core.sampling import sample_asyndm
from asyndm.core.settings import Settings
from asyndm.core.words import listed
from asyndm.hosts import inside, noise, shims, transformers, webui
from asyndm.hosts.base_pass import base_pass
from asyndm.hosts.calls import SamplingCall, TimestepCall
from asyndm.hosts.frames import flat
from asyndm.hosts.guided import Guided
from asyndm.hosts.learned import tell_profile
from asyndm.hosts.levelling import norms_for
from asyndm.hosts.painted import in_this_pass, one_mask
from asyndm.hosts.prompts import PromptWords, Tokens, is_hires, words_of
from asyndm.hosts.reel import Reel
from asyndm.hosts.regions import Laid, lay
from asyndm.hosts.steps import PatientMasks, StepWatch, nothing_steers
from asyndm.hosts.telling import Telling, pass_of, refuse, skipped
from asyndm.network import AttentionCapture, attach, patch_of

RUN = "asyndm_run"  # on the CFG denoiser, while a run lasts


def sample(kind: type[HostRun], job: SamplingCall | TimestepCall) -> Tensor:
    """The latents at the end of the host's list: asynchronous where the job's plan says so."""
    p = job.denoiser.p
    plan = getattr(p, webui.ATTRIBUTE, None)
    if plan is None:  # chosen as a sampler where the script does not run
        plan = webui.Plan(Settings(enabled=True))
    if not plan.on or skipped(p, plan):
        return job.run_twin()
    first = job.denoiser.step
    try:
        run = kind(plan, job)
        moves = run.moves
        run.still = not moves
        return run.sample() if moves or run.guided else job.run_twin()
    except Exception as error:
        if job.denoiser.step != first:
            raise  # the latents are at mixed noise levels: nothing else can finish them
        refuse(p, plan, error, pass_of(p))
        return job.run_twin()


def on_cfg_denoiser(params: Any) -> None:
    """Registered once with the host; does nothing unless a run of ours is in progress."""
    run = getattr(params.denoiser, RUN, None)
    if run is not None:
        try:
            run.before_network(params)
        except Exception as error:  # the host would log it and go on with half a run
            run.failure = error


class HostRun(Guided, ABC):
    """One asynchronous sampling call.

    Args:
        plan: of the job, with settings that are on.
        job: the host's call.

    Raises:
        SettingsError: something this run cannot use, in one line.
        UnsupportedNetwork: a model AsynDM cannot steer.
    """

    reads = True  # masks are read from attention in the call in progress

    def __init__(self, plan: webui.Plan, job: SamplingCall | TimestepCall) -> None:
        self.settings, self.plan, self.job = plan.settings, plan, job
        self.denoiser, self.p = job.denoiser, job.denoiser.p
        self.batch = job.x.shape[0]
        self.telling = Telling(self.p, plan, self.batch)
        if self.settings.lead > 0 and self.denoiser.nmask is not None and job.shows_clean:
            self.settings = replace(self.settings, lead=0.0)
            self.telling.note(
                "lead: with this sampler the host shows the network what is kept without noise, so "
                "nothing can lead; it changes nothing."
            )
        self.failure: Exception | None = None  # of a callback, raised behind the network call
        self.calls = 0  # of the CFG denoiser, before the one in progress
        self.latents = job.x  # that the CFG denoiser was called with, before the host touched them
        self.check_guidance()
        self.check_model()
        self.parametrisation = self.parametrise()
        transformers.check(self)
        self.words: PromptWords | None = None
        if self.settings.mask_source != "given" and not self.still:
            self.words = self._words_of(self.settings.objects, plan.found)
        self.capture: AttentionCapture | None = None
        self.regions: Laid | None = None
        if self.words is not None and self.words.matched and self.settings.clock != "concave":
            self.regions = lay(self.p, self.words, self.settings, self.patches(), job.x)
        if self.regions is not None:
            self.curvatures = list(self.regions.masks.curvatures)
        elif self.words is not None:
            columns = self.words.columns(self.denoiser.step)
            self.capture = AttentionCapture(columns, softmax=self.settings.softmax)
            self.curvatures = self.words.curvatures(self.settings.curvature)
        else:
            self.curvatures = curvatures_of(self.plan.painted, self.settings)
        self.call, self.watch = NetworkCall(), StepWatch()
        self._attached: ExitStack | None = None
        self._to: tuple | None = None

    # --- what a host has to say ---

    @staticmethod
    @abstractmethod
    def tokenize(text: str) -> Tokens:
        """The tokens of a text as the loaded model sees them."""

    @staticmethod
    @abstractmethod
    def network_of(model: Any) -> nn.Module:
        """The network of the host's ``sd_model``."""

    def check_model(self) -> None:  # noqa: B027 - most hosts have nothing to add
        """Refuse what AsynDM cannot look into, besides what :meth:`parametrise` refuses.

        Raises:
            UnsupportedNetwork: in one line for the user.
        """

    @abstractmethod
    def wrapper(self) -> Any:
        """What stands between the CFG denoiser and the network now; another one after a refiner."""

    @abstractmethod
    def model(self) -> Any:
        """The host's ``sd_model`` now in use."""

    def network(self) -> nn.Module:
        """The network now in use."""
        return self.network_of(self.model())

    def checkpoint(self) -> Any:
        """What the host knows of the weights in use: the same object while they are the same."""
        return shims.checkpoint_in_use(self.p, self.model())

    @abstractmethod
    def parametrise(self) -> Parametrisation:
        """What the model in use predicts.

        Raises:
            UnsupportedNetwork: something AsynDM has no formula for.
        """

    @abstractmethod
    def timesteps(self, sigmas: Tensor) -> Tensor:
        """The timesteps the host would give the network at these noise levels, [R] -> [R]."""

    @abstractmethod
    def around_network(self) -> AbstractContextManager[None]:
        """The map of noise levels around the network, for as long as the block lasts."""

    @abstractmethod
    def begin_step(self, params: Any) -> None:
        """The host is about to call the network for one step, in one call or several."""

    def options(self) -> Mapping[str, Any] | None:
        """What extensions added to a backend's model, where it keeps a list of that."""
        return None

    def patches(self) -> Iterable[Any]:
        """Functions that other extensions put into the network's cross-attention."""
        return ()

    # --- the run ---

    @property
    def moves(self) -> bool:
        """False where nothing could ever be asynchronous."""
        if self.still:
            return False
        led = self.settings.lead > 0 and self.denoiser.nmask is not None
        if self.settings.lead > 0 and not led:
            self.telling.note(
                "lead: nothing is kept in this job (no inpaint mask); it changes nothing."
            )
        if self.words is not None and not self.words.matched and self.settings.clock != "concave":
            named = listed(self.words.unmatched) or "none found"
            self.telling.note(f"no object word is in the prompt ({named}).", synchronous=True)
            return False
        ready = self.settings.mask_source != "dynamic" or self.settings.clock == "concave"
        ready = ready or self.regions is not None
        if why := nothing_steers(self.settings, len(self.job.sigmas) - 1, ready):
            self.telling.note(why, synchronous=not led)
            if not led:
                return False
        concave = self.settings.clock == "concave" and not self.curvatures
        return led or any(
            k > 0 for k in ([self.settings.curvature] if concave else self.curvatures)
        )

    def sample(self) -> Tensor:
        """The latents at the end of the host's list."""
        job = self.job
        self._tell_words()
        setattr(self.denoiser, RUN, self)
        try:
            source = self._source()
            director = self.director = self._director(source)
            tell_profile(self)
            self.call = director.call
            self.make_guide(director)
            options = {n: v for n, v in job.options.items() if n != "noise_sampler"}
            if isinstance(job, SamplingCall):
                options |= inside.options_inside(job.rule, job.twin, options, self.wrapper())
            self.reads = isinstance(source, PatientMasks)
            reel = Reel(len(job.sigmas) - 1 if director.record else 0)
            self.attach()  # a network that cannot be steered is known before the first call
            drawn = self._noise
            if not job.options.get("noise_sampler"):
                drawn = noise.of_twin(job.rule, job.twin, job.x, job.sigmas) or drawn
            image = sample_asyndm(
                self._denoise,
                job.x,
                inside.levels_of(job.twin, job.sigmas, self.wrapper()),
                job.extra_args,
                reel.watching(job.callback and (lambda state: job.callback(job.told(state)))),
                job.disable,
                director=director,
                noise_sampler=drawn,
                **transformers.like_twin(self, self.how(options), options),
                **options,
            )
        finally:
            self._detach()
            delattr(self.denoiser, RUN)
        self.tell_measured()
        if left_out := self.watch.line(getattr(source, "unseen", None)):
            self.telling.note(left_out)
        self.telling.unmarked(getattr(source, "marked", None), self.settings.threshold, self.words)
        if director.history is not None:
            matched = self.words.matched if self.words is not None else self._mask_words()
            self.plan.shots.append(
                webui.Shot(
                    getattr(self.p, "iteration", 0),
                    is_hires(self.p),
                    ", ".join(matched) or "painted",
                    director.history.frames(),
                    reel.guesses(),
                )
            )
        return job.leave(image)

    def _noise(self, sigma: Tensor, sigma_next: Tensor) -> Tensor:
        """As the host's own samplers draw it: an image's noise depends on its seed alone."""
        own = self.job.options.get("noise_sampler")
        return flat(self.p.rng.next() if own is None else own(sigma, sigma_next))

    def _denoise(self, x: Tensor, sigma: Tensor, **extra_args: Any) -> Tensor:
        self.latents, step = x, self.denoiser.step
        self.scale = extra_args["cond_scale"]
        if self.guide is not None:
            self.guide.begin_prediction()
        with self.aside() if self.asks_again else self.watch.step():
            denoised = self.job.ask(self.calls, x, sigma, **extra_args)
        self.calls += not self.asks_again
        if self.failure is not None:
            self.denoiser.step = step  # as if this call had never been: see sample()
            raise self.failure
        return denoised

    def before_network(self, params: Any) -> None:
        """The ``cfg_denoiser`` callback: after a refiner switch, before the network's calls."""
        self.attach()
        self.begin_step(params)
        if self.words is not None and self.capture is not None:
            columns = self.words.columns(self.denoiser.step)
            if columns != self.capture.columns:
                self.capture.aim(columns)

    def attach(self) -> None:
        """Hooks in the network and around it; anew where a refiner brought another one, or other
        weights for this one."""
        network = self.network()
        now = (self.wrapper(), network, self.checkpoint(), self.call, self.reads, self.guide)
        if self._to is not None and all(a is b for a, b in zip(self._to, now)):
            return
        if self._to is not None and self.director.clock is not None:
            self.director.clock.forget_timesteps()  # the network to come may round otherwise
        self._detach()
        self.check_model()
        stack = ExitStack()
        try:
            stack.enter_context(self.around_network())
            stack.enter_context(self.guiding(network))
            stack.enter_context(self.watch.watching(network))
            reading = self.capture if self.reads else None
            stack.enter_context(attach(network, self.call, reading, norms_for(self)))
        except BaseException:
            stack.close()
            raise
        self._attached, self._to = stack, now

    def _detach(self) -> None:
        stack, self._attached, self._to = self._attached, None, None
        if stack is not None:
            stack.close()

    # --- what it is made of ---

    def _mask_words(self) -> list[str]:
        return [each.word for each in self.plan.painted if each.word]

    def _tell_words(self) -> None:
        if self.still:
            return  # it was told why, or wanted
        if self.words is not None:
            self.telling.words(self.words)
            self.telling.regions(self.regions)
        elif named := self._mask_words():
            self.telling.mask_words(self._words_of(", ".join(named)).unmatched)

    def _words_of(self, expression: str, found: Found | None = None) -> PromptWords:
        conditioning = self.denoiser.sampler.sampler_extra_args["cond"]
        return words_of(self.p, expression, conditioning, self.tokenize, found)

    def _source(self) -> MaskSource:
        settings = self.settings
        if (one := self.one_clock(self.curvatures)) is not None:
            return one
        if self.regions is not None:
            self.p.comment(f"AsynDM objects: {self.regions.told}")
            return self.regions.masks
        if settings.mask_source == "given":
            return given_masks(
                settings,
                self.plan.painted,
                None if self.denoiser.nmask is None else one_mask(self.denoiser.nmask),
                tuple(self.job.x.shape[-2:]),
                self.telling.note,
                self.job.x.device,
                partial(in_this_pass, self.p),
            )
        if settings.mask_source == "fixed":
            return GivenMasks.from_maps(
                base_pass(self),
                self.curvatures,
                threshold=settings.threshold,
                soft=settings.soft,
            )
        return PatientMasks(
            self.capture,
            self.curvatures,
            threshold=settings.threshold,
            smoothing=settings.smoothing,
            soft=settings.soft,
        )

    def _director(self, source: MaskSource) -> Director:
        nmask = None if self.still else self.denoiser.nmask
        alike = self.words is None or self.still or self.settings.clock == "concave"
        steered = [True] if alike else self.words.steered
        return Director.from_settings(
            self.settings,
            self.parametrisation,
            source,
            allowed=None if nmask is None else one_mask(nmask),
            known=None if nmask is None else flat(self.denoiser.init_latent),
            timestep=self.timesteps,
            record=not self.still and (self.settings.show_masks or self.settings.save_masks),
            steered=None if all(steered) else torch.tensor(steered),
            patch=patch_of(self.network()),
        )
