"""Rectified-flow transformers in a WebUI: what holds for all hosts."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from asyndm.core.parametrisation import FlowParametrisation
from asyndm.core.rules import make_rule
from asyndm.core.settings import PRESETS, TRANSFORMER_ONLY, SettingsError
from asyndm.hosts.faces import is_own
from asyndm.network import is_transformer, tells_text

if TYPE_CHECKING:
    from asyndm.hosts.hosted import HostRun
    from asyndm.hosts.webui import Plan

FLOW = PRESETS["flow"]["curvature"]
MOST = 1.01  # a noise level of rectified flow, with what rounding adds
_OF_JOINT_TEXT = {
    "text_timestep": "text is told no time",
    "softmax": "words are read from cross-attention, over the text alone",
}


def rectified(predictor: Any) -> FlowParametrisation:
    """Rectified flow by a host's predictor, with the shift it has now.

    Args:
        predictor: with ``sigmas`` and ``timestep``.
    """
    one = torch.ones((), dtype=torch.float64)
    return FlowParametrisation(
        multiplier=float(predictor.timestep(one)), sigmas=torch.as_tensor(predictor.sigmas)
    )


def check(run: HostRun) -> None:
    """Refuse, in one line, what has no form with the model in use; say what changes nothing.

    Raises:
        SettingsError: a sampler or a list of noise levels.
    """
    network, settings = run.network(), run.settings
    transformer = is_transformer(network)
    if run.job.x.ndim != 4:
        raise SettingsError(
            f"a video of {run.job.x.shape[2]} latent frames has no asynchronous form here; make "
            "one frame."
        )
    if not transformer:
        for name in TRANSFORMER_ONLY:
            if name in settings.changed():
                run.telling.note(f"{name}: it is of transformers; it changes nothing here.")
    elif not tells_text(network):  # text and image meet in cross-attention alone
        for name, why in _OF_JOINT_TEXT.items():
            if name in settings.changed():
                run.telling.note(f"{name}: this model's {why}; it changes nothing.")
    if transformer and settings.norms != "host":
        run.telling.note("norms: a transformer has no group norms; it changes nothing.")
    if not run.parametrisation.flow:
        return
    # Where the host's own ancestral step is not flow's, DPM2 a's is not, either.
    ancestral = run.job.rule == "dpm_2_a" and not run.ancestral_is_flow()
    if ancestral or not run.job.knows_flow:
        raise SettingsError(
            f"sampler {run.p.sampler.config.name!r} has no asynchronous form for "
            "rectified-flow models; choose Euler, Euler a or DPM++ 2M."
        )
    check_levels(run.job.sigmas)


def check_levels(levels: Tensor) -> None:
    """Refuse a list of noise levels that is none of rectified flow.

    Forge main's "Automatic" and "Uniform", for samplers without a schedule of their own, list
    timesteps where noise levels should stand with Flux. With Stable Diffusion 3 their list ends in
    two zeros, so that what img2img takes of it may begin at 0.

    Args:
        levels: up to the first 0, as a run takes them.

    Raises:
        SettingsError: one of them.
    """
    whose = "(Forge main's 'Automatic' and 'Uniform' do so with this model)"
    if float(levels.max()) > MOST:
        raise SettingsError(
            f"the list of noise levels goes up to {float(levels.max()):g} {whose}, but this "
            "model's end at 1; choose the schedule type Simple."
        )
    if float(levels[0]) <= 0:
        raise SettingsError(
            f"the list of noise levels begins at 0 {whose}, so that nothing can be denoised; "
            "choose the schedule type Simple."
        )


def like_twin(run: HostRun, how: dict[str, Any], options: dict[str, Any]) -> dict[str, Any]:
    """How to sample, with "Euler a" as the host has it.

    On Stable Diffusion 3 the hosts' own is the step of variance-exploding models, which is not
    rectified flow's; a ticked "Euler a" follows it. "AsynDM" takes the rectified-flow form.
    """
    if how["rule"] != "ddpm" or not run.parametrisation.flow or is_own(run.p.sampler.config.name):
        return how
    if run.ancestral_is_flow():
        return how
    given = {name: options[name] for name in ("eta", "s_noise") if options.get(name) is not None}
    return {**how, "rule": make_rule("ddpm", **given)}


def take_flow_preset(plan: Plan, network: nn.Module) -> bool:
    """The preset "flow" where nobody set a curvature and the network is of that kind.

    Such networks have two k that nobody sets, so the one that ran always stands in the parameters.

    Returns:
        Whether the network is of that kind, and a k is used.
    """
    if plan.settings is None or not is_transformer(network):
        return False
    if plan.settings.clock == "synchronous":
        return False
    if not plan.curvature_set:
        plan.settings = replace(plan.settings, curvature=FLOW)
    plan.taken.always = ("curvature",)
    return True
