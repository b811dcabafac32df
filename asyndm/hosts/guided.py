"""What a method of guidance adds to a host's sampling call, in every host.

The method works on every pixel's own D, where the host itself puts its predictions together: how
it is entered there is told by the host's own file. A zigzag's calls, like the perturbed ones, are
nobody's but the method's: no step is counted, no preview drawn, no mask read from them.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from modules import sd_samplers_common
from torch import Tensor, nn

from asyndm.core.masks import GivenMasks, MaskSource
from asyndm.core.rules.base import Rule
from asyndm.core.run import Director
from asyndm.core.settings import Settings
from asyndm.core.shadow import shadowed
from asyndm.guidance import Guide, methods
from asyndm.guidance.measure import Measured, RowCounter
from asyndm.hosts import infotext
from asyndm.hosts.frames import flat
from asyndm.hosts.prompts import is_hires
from asyndm.hosts.taken import ByImage


class Guided:
    """The guided side of a host's run.

    Attributes:
        still: no pixel's clock differs from the host's.
        guided: the settings ask for more than the host's own CFG.
        guide: of the run in progress; None = the host's own CFG, whose rows ``counter`` counts.
        scale: the CFG scale that the call in progress was asked for.
        ran_uncond: the unconditional rows of the step in progress were run.
    """

    settings: Settings
    still = False
    guide: Guide | None = None
    counter: RowCounter | None = None
    scale = 1.0
    ran_uncond = False
    base_rows: list[int] | None = None  # of the pass that fixed masks are made from

    def check_guidance(self) -> None:
        """What the settings ask for.

        Raises:
            SettingsError: methods that exclude each other.
        """
        methods.check(self.settings)
        self.guided = methods.guides(self.settings)
        self.still = self.settings.clock == "synchronous"

    def around_guidance(self) -> AbstractContextManager[None]:
        """The method in the place of the host's CFG, for as long as the block lasts."""
        raise NotImplementedError

    @contextmanager
    def guiding(self, network: nn.Module) -> Iterator[None]:
        """The method, or the count of rows where the host's own CFG guides."""
        if self.guide is not None:
            with self.guide.watching(network), self.around_guidance():
                yield
            return
        with nullcontext() if self.counter is None else self.counter.watching(network):
            yield

    def scale_of_pass(self) -> float:
        """The CFG scale that the host takes in this pass."""
        return self.scale

    def scaled(self, scale: float) -> AbstractContextManager[None]:
        """The host guides by this scale inside the block, whatever it would take else."""
        return nullcontext()

    # --- a run ---

    def one_clock(self, curvatures: list[float]) -> MaskSource | None:
        """Masks that make one clock of all pixels; None where they have their own."""
        if self.still:
            return GivenMasks(torch.zeros(1, 1, dtype=torch.bool), 0.0)
        if self.settings.clock == "concave":
            largest = max(curvatures, default=self.settings.curvature)
            return GivenMasks(torch.ones(1, 1, dtype=torch.bool), largest)
        return None

    def make_guide(self, director: Director) -> None:
        """The guide of the run that ``director`` directs."""
        if not self.guided:
            self.counter = RowCounter(director.call, self.batch)
            return
        sigmas = self.job.sigmas
        self.guide = Guide(
            self.settings, self.parametrisation, director.call, self.batch, len(sigmas) - 1,
            still=self.still,
        )  # fmt: skip
        self.guide.begin(sigmas.tolist())
        needed = self.guide.method.needs_uncond
        if needed and self.denoiser.sampler.sampler_extra_args.get("uncond") is None:
            self.telling.note(
                f"guidance: at CFG 1 this WebUI makes nothing without the prompt, which "
                f"{self.settings.guidance} needs; set the CFG scale above 1 (it is not read)."
            )
        if self.guide.passes is not None and self.denoiser.nmask is not None:
            self.guide.passes.moving = flat(self.denoiser.nmask)

    def how(self, options: dict[str, Any]) -> dict[str, Any]:
        """The rule, passes and prediction without the prompt, for the sampling loop."""
        if self.guide is None:
            return {"rule": self.job.rule}
        rule: str | Rule = self.guide.rule(self.job.rule, **options)
        return {"rule": rule, "passes": self.guide.passes, "uncond": self._uncond}

    def _uncond(self) -> Tensor:
        """The unconditional D, over what inpainting keeps as the host blends the guided one."""
        denoiser, free = self.denoiser, self.guide.uncond
        if denoiser.nmask is None or denoiser.mask_before_denoising:
            return free
        return free * flat(denoiser.nmask) + flat(denoiser.init_latent) * flat(denoiser.mask)

    # --- a call ---

    @property
    def asks_again(self) -> bool:
        """Whether the call in progress is a zigzag's."""
        passes = None if self.guide is None else self.guide.passes
        return passes is not None and passes.asking

    @contextmanager
    def aside(self) -> Iterator[None]:
        """Around a zigzag's call: one more at the step in progress, and nobody is to know."""
        denoiser, step = self.denoiser, self.denoiser.step
        shown = denoiser.sampler.last_latent
        self.calls, denoiser.step = self.calls - 1, step - 1
        # On the way down the host guides by its own scale; a hires pass may have another.
        up = self.scaled(self.scale) if self.guide.passes.upwards else nullcontext()
        try:
            with shadowed(sd_samplers_common, "store_latent", _not_shown), up:
                yield
        finally:
            self.calls, denoiser.step = self.calls + 1, step
            denoiser.sampler.last_latent = shown

    # --- what it cost ---

    def tell_measured(self) -> None:
        """Counted rows and effective guidance, into the parameters of every image."""
        if self.guide is not None:
            measured = self.guide.measured()
        else:  # all that CFG adds in any step is along its delta
            w_eff = float(self.scale_of_pass()) if self.counter.uncond else None
            measured = [Measured(rows, w_eff) for rows in self.counter.counts]
        if self.base_rows is not None:
            measured = [
                Measured(one.rows + more, one.w_eff) for one, more in zip(measured, self.base_rows)
            ]
        first = getattr(self.p, "iteration", 0) * self.batch
        kept, hires = self.plan.measured, is_hires(self.p)
        for image, each in enumerate(measured, first):
            text = f"{kept[image]}; hires: {each}" if hires and image in kept else str(each)
            kept[image] = text
        images = range(first, first + self.batch)
        texts = {kept[image] for image in images}
        common = texts.pop() if len(texts) == 1 else ""
        self.p.extra_generation_params[infotext.MEASURED_KEY] = ByImage(
            common, lambda j: kept.get(j, "")
        )


def _not_shown(latents: Tensor) -> None:
    """In the place of the host's live preview."""
