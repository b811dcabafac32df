"""One run's guidance: the method of the settings, what it reads in the network, what it cost."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import NamedTuple

from torch import Tensor, nn

from asyndm.core.parametrisation import Parametrisation, VParametrisation
from asyndm.core.rules import REGISTRY
from asyndm.core.rules.base import Rule
from asyndm.core.run import NetworkCall
from asyndm.core.settings import Settings
from asyndm.guidance import methods
from asyndm.guidance.base import Guess
from asyndm.guidance.cfgpp import ByWeight, CfgPP, renoising_rule
from asyndm.guidance.measure import Effective, Measured, RowCounter
from asyndm.guidance.seg import Seg
from asyndm.guidance.zigzag import Zigzag
from asyndm.network.errors import UnsupportedNetwork
from asyndm.network.families import family_of, is_transformer
from asyndm.network.perturb import Perturbation
from asyndm.network.regions import RegionReader

# Rules that step to sigma_down, beside those of DDPM.
_ANCESTRAL = ("dpmpp_2s_a", "dpm_2_a", "res_multistep_a")


class Wants(NamedTuple):
    """Which predictions a network call needs."""

    cond: bool
    uncond: bool
    perturbed: bool


class Guide:
    """Makes one D of a step's predictions, for one run.

    Args:
        settings: whose guidance, zigzag and interval are taken.
        parametrisation: of the model.
        call: the channel to the hooks; says whose rows a network call has.
        batch: pictures.
        steps: of the run.
        still: no pixel's clock will differ from the host's, so that whole steps may be left
            unguided.

    Raises:
        SettingsError: methods that exclude each other.
    """

    def __init__(
        self,
        settings: Settings,
        parametrisation: Parametrisation,
        call: NetworkCall,
        batch: int,
        steps: int,
        still: bool = False,
    ) -> None:
        methods.check(settings)
        self.settings, self.parametrisation, self.call = settings, parametrisation, call
        self.method = methods.METHODS[settings.guidance](settings)
        self.interval = methods.interval_of(settings)
        self.still = still
        self.uncond: Tensor | None = None  # of the last prediction, what renoising rules need
        self.step = -1  # of the prediction in progress
        self._plain = methods.METHODS["cfg"](settings)
        self._up = False
        self._host: list[float] = []
        self._effective = Effective()
        self.counter = RowCounter(call, batch)
        self.perturbation: Perturbation | None = None
        if self.method.perturbs:
            blur = self.method.blur if isinstance(self.method, Seg) else 0.0
            self.perturbation = Perturbation(self.method.perturbs, blur)
        self.reader = RegionReader(call) if self.method.reads_regions else None
        self.passes: Zigzag | None = None
        if settings.zigzag > 0:
            self.passes = Zigzag(parametrisation, settings.zigzag, steps, settings.zigzag_up)

    # --- around a run ---

    def rule(self, name: str, **options: object) -> str | Rule:
        """The rule to sample with: CFG++'s own form of it, else the name.

        Raises:
            SettingsError: CFG++ has no form of it.
        """
        flow = self.parametrisation.flow
        if isinstance(self.method, CfgPP):
            strength, weigh = self.method.strength, self._effective.weigh
            return renoising_rule(name, strength, weigh, flow, **options)
        if isinstance(self.method, ByWeight):
            self.method.flow = flow
            ancestral = "ddpm" in name or name in _ANCESTRAL
            eta = options.get("eta") if "eta" in REGISTRY[name].options else 0.0
            self.method.eta = float(ancestral if eta is None else eta)
        return name

    def begin(self, host_sigmas: list[float], steps: int | None = None) -> None:
        """A run over the host's list starts; ``steps``: how many, where it was not known before."""
        if steps is not None and self.passes is not None:
            self.passes.steps = round(self.settings.zigzag * steps)
        self._host, self.step, self._up = list(host_sigmas), -1, False
        self.method.begin(self._host)

    @contextmanager
    def watching(self, network: nn.Module) -> Iterator[None]:
        """What the method reads and perturbs in the network, and the count of its rows.

        Raises:
            UnsupportedNetwork: there is nothing to read or perturb.
        """
        check_network(self.settings, network)
        with ExitStack() as stack:
            stack.enter_context(self.counter.watching(network))
            if self.perturbation is not None:
                stack.enter_context(self.perturbation.watching(network))
            if self.reader is not None:
                layers, sizes = family_of(network)(network, NetworkCall()).cross_layers()
                stack.enter_context(self.reader.watching(network, layers, sizes))
            yield

    # --- around a prediction ---

    def begin_prediction(self) -> None:
        """A guided prediction starts.

        Second calls inside a step, and a zigzag's, are the step's own. On a zigzag's way up plain
        CFG guides.
        """
        self._up = up = self.passes is not None and self.passes.upwards
        if self.call.reading:
            self.step += 1
        if self.reader is not None:
            self.reader.reading = not up
            self.reader.take()

    def wants(self, scale: float) -> Wants:
        """What the prediction in progress needs at a guidance of ``scale``."""
        acts = not self.still or not self._host or self.interval.holds(self._level())
        if not acts:
            return Wants(True, False, False)
        if self._up:
            return Wants(scale != 0, scale != 1, False)
        uncond = scale != 1 or self.method.needs_uncond
        return Wants(True, uncond, self.perturbation is not None)

    @contextmanager
    def perturbing(self) -> Iterator[None]:
        """Network calls inside the block are the third prediction's: no mask is read from them."""
        reading, self.call.reading = self.call.reading, False
        if self.reader is not None:
            self.reader.reading = False
        try:
            with self.perturbation.on(max(self.step, 0)):
                yield
        finally:
            self.call.reading = reading

    def combine(
        self,
        cond: Tensor,
        uncond: Tensor | None,
        sigma: Tensor,
        scale: float,
        perturbed: Tensor | None = None,
    ) -> Tensor:
        """D from the predictions, all [B, C, H, W], at ``sigma`` [B, 1, H, W] or one an image."""
        if sigma.ndim < 4:
            sigma = sigma.reshape(-1, 1, 1, 1)
        sigma = sigma.to(cond)
        self.uncond = cond if uncond is None else uncond
        active, weight = None, scale
        if self.interval.limits:
            active = self.interval.active(sigma)
            weight = self.interval.scale(scale, active)
        guess = Guess(
            cond, uncond, sigma, weight, max(self.step, 0),
            isinstance(self.parametrisation, VParametrisation), perturbed, active,
            None if self.reader is None else self.reader.take(),
        )  # fmt: skip
        if self._up:
            return self._plain.combine(guess)
        denoised = self.method.combine(guess)
        if uncond is None or self.passes is not None:
            pass
        elif isinstance(self.method, CfgPP):
            self._effective.keep(cond, uncond, sigma)
        else:
            self._effective.add(denoised.float(), cond.float(), uncond.float(), sigma.float())
        return denoised

    def measured(self) -> list[Measured]:
        """Rows and effective guidance of every picture (waits for the device)."""
        counts = self.counter.counts
        return [Measured(*both) for both in zip(counts, self._effective.values(len(counts)))]

    def _level(self) -> float:
        return self._host[min(max(self.step, 0), len(self._host) - 1)]


def check_network(settings: Settings, network: nn.Module) -> None:
    """Refuse what a network has no form of.

    Raises:
        UnsupportedNetwork: a guidance that perturbs or reads a U-Net's attention, in a transformer.
    """
    method = methods.METHODS[settings.guidance](settings)
    if is_transformer(network) and (method.perturbs or method.reads_regions):
        raise UnsupportedNetwork(
            f"guidance: {settings.guidance} works on a U-Net's attention; with this "
            "transformer choose cfg, apg, cfg++ or cfg++w."
        )
