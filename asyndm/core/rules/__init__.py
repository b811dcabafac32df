"""The update rules when every pixel has a noise level of its own, by name.

    rule = make_rule("heun", s_churn=0.5)
    REGISTRY["heun"].twin  # "sample_heun", k-diffusion's function of the same rule

``NO_FORM`` says of the samplers that have no asynchronous form, why.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from asyndm.core.rules.adams import Deis, Ipndm, IpndmV, Lms
from asyndm.core.rules.base import Rule
from asyndm.core.rules.er_sde import ErSde
from asyndm.core.rules.flow import MakeOnFlow
from asyndm.core.rules.gradient import GradientEstimation
from asyndm.core.rules.inner import (
    Dpm2,
    Dpm2Ancestral,
    DpmPP2SAncestral,
    DpmPPSde,
    FlowDpm2Ancestral,
    Heun,
)
from asyndm.core.rules.multistep import (
    DpmPP2M,
    DpmPP2MSde,
    DpmPP3MSde,
    ResMultistep,
    ResMultistepAncestral,
)
from asyndm.core.rules.sa_solver import SaSolver, SaSolverPece
from asyndm.core.rules.seeds import Seeds2, Seeds3
from asyndm.core.rules.single import Ddim, Ddpm, DdpmVp, Euler, FlowDdpm, Lcm
from asyndm.core.rules.unipc import UniPC


@dataclass(frozen=True)
class Entry:
    """What is known of one rule.

    Attributes:
        make: the rule for x = x0 + sigma * noise.
        twin: the function of the same rule in k-diffusion, or in the host where k-diffusion has
            none.
        flow: the rule for x = (1 - sigma) * x0 + sigma * noise; None where the twin has no form of
            its own for it.
    """

    make: Callable[..., Rule]
    twin: str
    flow: Callable[..., Rule] | None = None

    @property
    def by_half_log_snr(self) -> bool:
        """Whether the form for flow is the rule's own in half log-SNR, which not every twin has."""
        return isinstance(self.flow, MakeOnFlow)

    @property
    def options(self) -> tuple[str, ...]:
        """What can be set: eta, s_noise, s_churn, s_tmin, s_tmax, solver_type, r, ..."""
        return tuple(inspect.signature(self.make).parameters)

    @property
    def calls(self) -> int:
        """Network calls a step."""
        return getattr(self.make, "calls", 1)


def _lcm() -> Lcm:
    return Lcm()


def _flow_lcm() -> Lcm:
    return Lcm(flow=True)


# The deterministic rules solve dx / ds = (x - D) / s, which is one for both kinds of latents.
REGISTRY = {
    "ddpm": Entry(Ddpm, "sample_euler_ancestral", FlowDdpm),
    "euler": Entry(Euler, "sample_euler", Euler),
    "dpmpp_2m": Entry(DpmPP2M, "sample_dpmpp_2m", DpmPP2M),
    "dpmpp_2m_sde": Entry(DpmPP2MSde, "sample_dpmpp_2m_sde", MakeOnFlow(DpmPP2MSde)),
    "dpmpp_3m_sde": Entry(DpmPP3MSde, "sample_dpmpp_3m_sde", MakeOnFlow(DpmPP3MSde)),
    "dpmpp_sde": Entry(DpmPPSde, "sample_dpmpp_sde", MakeOnFlow(DpmPPSde)),
    "dpmpp_2s_a": Entry(DpmPP2SAncestral, "sample_dpmpp_2s_ancestral"),
    "heun": Entry(Heun, "sample_heun", Heun),
    "dpm_2": Entry(Dpm2, "sample_dpm_2", Dpm2),
    "dpm_2_a": Entry(Dpm2Ancestral, "sample_dpm_2_ancestral", FlowDpm2Ancestral),
    "lms": Entry(Lms, "sample_lms", Lms),
    "ipndm": Entry(Ipndm, "sample_ipndm", Ipndm),
    "ipndm_v": Entry(IpndmV, "sample_ipndm_v", IpndmV),
    "deis": Entry(Deis, "sample_deis", Deis),
    # The same step as Euler ancestral's, but its twin knows no other latents.
    "ddpm_vp": Entry(DdpmVp, "sample_ddpm"),
    "ddim": Entry(Ddim, "ddim"),
    "unipc": Entry(UniPC, "unipc"),
    "res_multistep": Entry(ResMultistep, "sample_res_multistep", ResMultistep),
    "res_multistep_a": Entry(ResMultistepAncestral, "sample_res_multistep_ancestral"),
    "gradient_estimation": Entry(
        GradientEstimation, "sample_gradient_estimation", GradientEstimation
    ),
    "seeds_2": Entry(Seeds2, "sample_seeds_2", MakeOnFlow(Seeds2)),
    "seeds_3": Entry(Seeds3, "sample_seeds_3", MakeOnFlow(Seeds3)),
    "sa_solver": Entry(SaSolver, "sample_sa_solver", MakeOnFlow(SaSolver)),
    "sa_solver_pece": Entry(SaSolverPece, "sample_sa_solver_pece", MakeOnFlow(SaSolverPece)),
    "er_sde": Entry(ErSde, "sample_er_sde", MakeOnFlow(ErSde)),
    "lcm": Entry(_lcm, "sample_lcm", _flow_lcm),
}
NO_FORM = {
    "restart": "it goes up in noise again, on lists of its own",
    "plms": "its weights are those of equal timesteps, which a pixel of its own pace does not take",
    "dpm_fast": "it chooses its own noise levels, not the host's list",
    "dpm_adaptive": "one step size is chosen for the whole image from its error",
}


def make_rule(
    name: str,
    *,
    eta: float | None = None,
    s_noise: float | None = None,
    flow: bool = False,
    **options: Any,
) -> Rule:
    """The rule of that name, one of :data:`REGISTRY`; "ddpm" with ``eta`` 0 is DDIM.

    Args:
        eta: share of fresh noise where a rule has one; None = as in its twin (1; "ddim": 0).
        s_noise: factor on the noise, where a rule draws some.
        flow: the model is a rectified flow.
        options: of this rule, see :attr:`Entry.options`.

    Raises:
        ValueError: an unknown name, a rule without a form (for flow models), or an option that the
            rule does not have.
    """
    if name in NO_FORM:
        raise ValueError(f"rule: {name!r} has no asynchronous form: {NO_FORM[name]}.")
    if name not in REGISTRY:
        raise ValueError(f"rule: {name!r} is unknown; choose one of {', '.join(REGISTRY)}.")
    entry = REGISTRY[name]
    make = entry.flow if flow else entry.make
    if make is None:
        usable = ", ".join(each for each, other in REGISTRY.items() if other.flow)
        raise ValueError(f"rule: {name!r} has no form for flow models; choose one of {usable}.")
    for option in options:
        if option not in entry.options:
            known = ", ".join(entry.options) or "none"
            raise ValueError(f"{option}: rule {name!r} has no such option; it has {known}.")
    general = {"eta": eta, "s_noise": s_noise}
    given = {k: v for k, v in general.items() if v is not None and k in entry.options}
    return make(**given, **options)
