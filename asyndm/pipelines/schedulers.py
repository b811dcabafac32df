"""The schedulers of diffusers that have an asynchronous form, one entry each.

A scheduler keeps its own list, whatever made it (spacing, offset, Karras, final level): it is read
here, in terms of the rules of :mod:`asyndm.core.rules`, and never made anew.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from asyndm.core.parametrisation import (
    EpsParametrisation,
    FlowParametrisation,
    Parametrisation,
    VParametrisation,
    wide_float,
)
from asyndm.core.settings import Settings
from asyndm.network import UnsupportedNetwork

PREDICTIONS = {"epsilon": EpsParametrisation, "v_prediction": VParametrisation}
# Models without signal at the last timestep have alpha 0 there; sigma is 1e5 with this one, and
# what the network is shown the same to a hundredth of a thousandth.
_LEAST_ALPHA = 1e-10
# (scheduler, settings, the call's eta) -> (name in core.rules.REGISTRY, its options)
RuleOf = Callable[[Any, Settings, float], tuple[str, dict[str, Any]]]


class Levels(NamedTuple):
    """One run's list, as the scheduler made it.

    Attributes:
        sigmas: [calls + 1] float64: a noise level a call, then where the last step leads.
        timesteps: [calls] float64, what the network is told.
        landing: [calls], where each step leads; differs from the next call's own level where a
            scheduler's previous timestep is not the next one of its list (DDIM, "linspace").
    """

    sigmas: Tensor
    timesteps: Tensor
    landing: tuple[float, ...]


@dataclass(frozen=True)
class Form:
    """What one scheduler is, in terms of a noise level a pixel.

    Attributes:
        rule: which rule takes its steps.
        levels: (scheduler, first index, calls) -> its list.
        preserving: its latents are of variance 1, x / sqrt(1 + sigma^2); otherwise x itself.
        draws: (configuration, arguments of its step) -> whether a step draws noise.
        noise_dtype: of that noise; None = the network's.
        first_order: (scheduler, index) -> a step that remembers no step before it.
        refuses: configuration -> what of it has no form, "" = nothing.
        flow: of rectified flows.
    """

    rule: RuleOf
    levels: Callable[[Any, int, int], Levels]
    preserving: bool
    draws: Callable[[Any, Mapping[str, Any]], bool]
    noise_dtype: torch.dtype | None = None
    first_order: Callable[[Any, int], bool] = lambda scheduler, index: False
    refuses: Callable[[Any], str] = lambda config: ""
    flow: bool = False


def form_of(scheduler: Any, flow: bool = False) -> Form:
    """The form of a scheduler.

    Args:
        flow: the network is a rectified flow.

    Raises:
        UnsupportedNetwork: it has none, or not as it is configured; in one line with the remedy.
    """
    name = type(scheduler).__name__
    if name not in FORMS or FORMS[name].flow != flow:
        known = sorted(each for each, form in FORMS.items() if form.flow == flow)
        with_, first = "", "EulerDiscreteScheduler"
        if flow:
            with_, first = " with rectified-flow models", known[0]
        raise UnsupportedNetwork(
            f"{name} has no asynchronous form{with_}; set pipe.scheduler = {first}."
            f"from_config(pipe.scheduler.config) ({', '.join(known)})."
        )
    if why := FORMS[name].refuses(scheduler.config):
        raise UnsupportedNetwork(f"{name}: {why}")
    return FORMS[name]


def parametrisation_of(scheduler: Any, least_alpha: float = _LEAST_ALPHA) -> Parametrisation:
    """What the network predicts, with the scheduler's own table of noise levels.

    Args:
        least_alpha: in the place of alphas of 0.

    Raises:
        UnsupportedNetwork: something AsynDM does not know.
    """
    form = FORMS.get(type(scheduler).__name__)
    if form is not None and form.flow:
        return FlowParametrisation(multiplier=float(scheduler.config.num_train_timesteps))
    prediction = scheduler.config.get("prediction_type", "epsilon")
    alphas = getattr(scheduler, "alphas_cumprod", None)
    if prediction not in PREDICTIONS or alphas is None:
        raise UnsupportedNetwork(
            f"The model predicts {prediction!r}; AsynDM knows {' and '.join(PREDICTIONS)}."
        )
    alphas = torch.where(alphas > 0, alphas.double(), least_alpha)
    try:
        return PREDICTIONS[prediction](alphas)
    except ValueError as error:
        raise UnsupportedNetwork(f"The model's noise levels are of no use: {error}") from None


def first_index(scheduler: Any, timestep: Any) -> int:
    """The place in the scheduler's list that a run starts from (img2img: not its first).

    Args:
        timestep: of its first call; None = it begins with the list, unless the scheduler knows.
    """
    begin = getattr(scheduler, "begin_index", None)
    if begin is not None:
        return int(begin)
    if timestep is None:
        return 0
    if hasattr(scheduler, "index_for_timestep"):
        return int(scheduler.index_for_timestep(timestep))
    return int((scheduler.timesteps == timestep).nonzero()[0])


class HostTimesteps:
    """Noise levels to what the network is told, through the scheduler's own pairs of both.

    Between two of them the difference to the model's continuous timestep is interpolated, so that a
    list that rounds its timesteps, or takes them from another formula, is met exactly.

    Args:
        parametrisation: of the model.
        levels: of the run.
    """

    def __init__(self, parametrisation: Parametrisation, levels: Levels) -> None:
        self.parametrisation = parametrisation
        own = parametrisation.timestep(levels.sigmas[:-1]).flip(0).double()
        self._own = own.contiguous()
        self._more = (levels.timesteps.flip(0) - own).contiguous()
        self._tables: dict[torch.device, tuple[Tensor, Tensor]] = {}

    def __call__(self, sigma: Tensor) -> Tensor:
        """Timesteps like ``sigma``."""
        own = self.parametrisation.timestep(sigma)
        at, more = self._on(own.device)
        low = (torch.searchsorted(at, own.contiguous(), right=True) - 1).clamp(0, len(at) - 1)
        high = (low + 1).clamp(max=len(at) - 1)
        width = at[high] - at[low]
        part = torch.where(width > 0, (own - at[low]) / torch.where(width > 0, width, 1.0), 0.0)
        return own + more[low].lerp(more[high], part.clamp(0, 1))

    def _on(self, device: torch.device) -> tuple[Tensor, Tensor]:
        if device not in self._tables:
            dtype = wide_float(device)
            self._tables[device] = (self._own.to(device, dtype), self._more.to(device, dtype))
        return self._tables[device]


# --- lists ---


def _listed(scheduler: Any, first: int, calls: int) -> Levels:
    """Of schedulers that keep their noise levels as ``sigmas``."""
    sigmas = scheduler.sigmas[first : first + calls + 1].double().cpu()
    timesteps = scheduler.timesteps[first : first + calls].double().cpu()
    return Levels(sigmas, timesteps, tuple(sigmas[1:].tolist()))


def _by_alpha(previous: Callable[[Any, int], int], final: str) -> Callable[..., Levels]:
    """Of schedulers that keep a product of alphas for each timestep.

    Args:
        previous: (scheduler, timestep) -> the timestep that a step leads to.
        final: the attribute that holds the product of alphas for those below 0.
    """

    def levels(scheduler: Any, first: int, calls: int) -> Levels:
        timesteps = scheduler.timesteps[first : first + calls].cpu()
        last = torch.as_tensor(getattr(scheduler, final)).double()

        def sigma(timestep: int) -> float:
            alpha = scheduler.alphas_cumprod[timestep].double() if timestep >= 0 else last
            alpha = alpha.clamp(min=_LEAST_ALPHA)
            return float(((1 - alpha) / alpha).sqrt())

        landing = tuple(sigma(int(previous(scheduler, t))) for t in timesteps.tolist())
        sigmas = [sigma(t) for t in timesteps.tolist()] + [landing[-1]]
        return Levels(torch.tensor(sigmas, dtype=torch.float64), timesteps.double(), landing)

    return levels


def _before(scheduler: Any, timestep: int) -> int:
    return timestep - scheduler.config.num_train_timesteps // scheduler.num_inference_steps


# --- what has no form ---


def _clipped(config: Any) -> str:
    for name in ("clip_sample", "thresholding"):
        if config.get(name):
            return f"{name} is for models of pixels; load it with {name}=False."
    return ""


def _solver(config: Any) -> str:
    if config.algorithm_type not in ("dpmsolver++", "sde-dpmsolver++"):
        return "algorithm_type must be 'dpmsolver++' or 'sde-dpmsolver++' to be asynchronous."
    if config.solver_order > 2:
        return "solver_order must be 1 or 2 to be asynchronous."
    if config.get("variance_type") in ("learned", "learned_range"):
        return "a learned variance has no asynchronous form; load it with variance_type=None."
    return _clipped(config)


def _ddpm(config: Any) -> str:
    if config.variance_type not in ("fixed_small", "fixed_small_log"):
        return "variance_type must be 'fixed_small' to be asynchronous."
    return _clipped(config)


def _flow(config: Any) -> str:
    if config.get("invert_sigmas"):
        return "invert_sigmas goes up in noise; load it with invert_sigmas=False."
    return ""


# --- rules ---


def _solver_rule(scheduler: Any, settings: Settings, eta: float) -> tuple[str, dict]:
    config = scheduler.config
    if config.algorithm_type == "sde-dpmsolver++":
        return "dpmpp_2m_sde", {"eta": 1.0, "solver_type": config.solver_type}
    if config.solver_type == "heun":
        return "dpmpp_2m_sde", {"eta": 0.0, "solver_type": "heun"}
    return "dpmpp_2m", {}


def _flow_rule(scheduler: Any, settings: Settings, eta: float) -> tuple[str, dict]:
    return ("lcm" if scheduler.config.get("stochastic_sampling") else "euler"), {}


def _solver_is_first_order(scheduler: Any, index: int) -> bool:
    config, count = scheduler.config, len(scheduler.timesteps)
    last = index == count - 1 and (
        config.euler_at_final
        or (config.lower_order_final and count < 15)
        or config.get("final_sigmas_type") == "zero"
    )
    return config.solver_order == 1 or last


FORMS: dict[str, Form] = {
    "EulerDiscreteScheduler": Form(
        lambda scheduler, settings, eta: ("euler", {}),
        _listed,
        preserving=False,
        draws=lambda config, step: False,
    ),
    "EulerAncestralDiscreteScheduler": Form(
        lambda scheduler, settings, eta: ("ddpm", {"eta": settings.eta}),
        _listed,
        preserving=False,
        draws=lambda config, step: True,
    ),
    "DDIMScheduler": Form(
        lambda scheduler, settings, eta: ("ddim", {"eta": eta}),
        _by_alpha(_before, "final_alpha_cumprod"),
        preserving=True,
        draws=lambda config, step: (step.get("eta") or 0) > 0,
        refuses=_clipped,
    ),
    "DDPMScheduler": Form(
        lambda scheduler, settings, eta: ("ddpm", {"eta": settings.eta}),
        _by_alpha(lambda scheduler, t: scheduler.previous_timestep(t), "one"),
        preserving=True,
        draws=lambda config, step: True,
        refuses=_ddpm,
    ),
    "DPMSolverMultistepScheduler": Form(
        _solver_rule,
        _listed,
        preserving=True,
        draws=lambda config, step: config.algorithm_type == "sde-dpmsolver++",
        noise_dtype=torch.float32,
        first_order=_solver_is_first_order,
        refuses=_solver,
    ),
    "FlowMatchEulerDiscreteScheduler": Form(
        _flow_rule,
        _listed,
        preserving=False,
        draws=lambda config, step: bool(config.get("stochastic_sampling")),
        noise_dtype=torch.float32,
        refuses=_flow,
        flow=True,
    ),
}
