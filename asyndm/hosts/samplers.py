"""The samplers of AsynDM in a WebUI: in its list, and in the place of the one a user selected."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import partial
from typing import Any

from modules import scripts, sd_samplers, sd_samplers_common, sd_samplers_kdiffusion, shared
from modules.sd_samplers_kdiffusion import KDiffusionSampler

from asyndm.core.rules import REGISTRY
from asyndm.core.run import NetworkCall
from asyndm.hosts import faces, hosted, infotext, webui
from asyndm.hosts.calls import SamplingCall
from asyndm.hosts.telling import pass_of, refuse
from asyndm.hosts.timesteps import timestep_call
from asyndm.hosts.transformers import take_flow_preset
from asyndm.network import attach

_OURS = "asyndm"  # on a function of ours that stands in for the host's
_FORMS = {"sigmas", "timesteps"}  # what a function we know how to call takes


class HostSamplers:
    """AsynDM's samplers in one host.

    Args:
        run: how the host is entered around its network.

    Attributes:
        functions: by rule, in k-diffusion's form, with the parameters of the host's own.
    """

    def __init__(self, run: type[hosted.HostRun]) -> None:
        self.run = run
        self.functions = {face.rule: self._function(face.rule) for face in faces.SAMPLERS}

    def _function(self, rule: str, own: Callable | None = None) -> Callable:
        """Ours of one rule, with the parameters of its twin: the host hands in what is named.

        Args:
            rule: of the update.
            own: the twin; None = the host's of k-diffusion.
        """

        def twin() -> Callable:  # asked for at each call: other extensions may exchange it
            return own or getattr(_host_functions(), REGISTRY[rule].twin)

        def by_timesteps(
            model, x, timesteps, extra_args=None, callback=None, disable=None, **options
        ):
            call = timestep_call(
                rule, twin(), model, x, extra_args, callback, disable, timesteps=timesteps,
                **options,
            )  # fmt: skip
            return hosted.sample(self.run, call)

        def asyndm(model, x, sigmas, extra_args=None, callback=None, disable=None, **options):
            call = SamplingCall(
                rule, twin(), model, x, sigmas, extra_args, callback, disable, options
            )
            return hosted.sample(self.run, call)

        signature = inspect.signature(twin())
        function = by_timesteps if "timesteps" in signature.parameters else asyndm
        function.__signature__ = signature
        return function

    def register(self) -> None:
        """Put the samplers into the host's list, once."""
        own = {face.name for face in faces.SAMPLERS}
        # Reload UI runs this again while the host keeps its list: take out what was there.
        sd_samplers.all_samplers[:] = [s for s in sd_samplers.all_samplers if s.name not in own]
        hidden = getattr(shared.cmd_opts, "asyndm_hide_samplers", False)
        for face in faces.SAMPLERS:
            data = self._data(face)
            if not hidden:
                sd_samplers.all_samplers.append(data)
            sd_samplers.all_samplers_map[face.name] = data
        resolve = getattr(sd_samplers, "get_sampler_and_scheduler", None)
        if hasattr(resolve, "cache_clear"):
            resolve.cache_clear()
        sd_samplers.set_samplers()

    def _data(self, face: faces.SamplerFace) -> sd_samplers_common.SamplerData:
        alias = face.name.lower().replace(" ", "_").replace("+", "p")
        twin = sd_samplers.all_samplers_map.get(face.twin)
        options = dict(twin.options) if twin is not None else {}
        construct = partial(_construct, self.functions[face.rule])
        return sd_samplers_common.SamplerData(face.name, construct, [alias], options)

    def choose(self, p: Any, plan: webui.Plan) -> None:
        """When a job that is on begins: ours in the place of samplers without a form of their own.

        This early, because the host counts the calls of a sampler when it schedules the prompts;
        not earlier, because the job's model must be loaded: with a network that AsynDM cannot
        steer, the job is off and keeps the samplers the user chose.
        """
        if webui.is_plain(plan.settings):
            return
        names = ("sampler_name", "hr_sampler_name")
        kept = {name: getattr(p, name) for name in names if hasattr(p, name)}
        try:
            self._choose(p, plan)
        except Exception as error:  # the host would log it and go on, as if nothing was ticked
            vars(p).update(kept)
            refuse(p, plan, error)
            plan.settings = None

    def _choose(self, p: Any, plan: webui.Plan) -> None:
        network = self.run.network_of(p.sd_model)
        attach(network, NetworkCall())
        if take_flow_preset(plan, network):
            key, always = infotext.KEY, plan.taken.always
            p.extra_generation_params[key] = infotext.to_text(plan.settings, always=always)
        for face in faces.SAMPLERS:  # Forge makes its map anew when another extension adds to it
            sd_samplers.all_samplers_map.setdefault(face.name, self._data(face))
        first = p.sampler_name
        if not plan.settings.only_hires:
            p.sampler_name = _name_for(p, plan, first)
        if not getattr(p, "enable_hr", False):
            return
        second = getattr(p, "hr_sampler_name", None) or first
        if plan.settings.hires:
            second = _name_for(p, plan, second)
        p.hr_sampler_name = None if second == p.sampler_name else second

    def take_over(self, p: Any, plan: webui.Plan) -> None:
        """Before a sampling call of a job that is on: our function in a sampler that is a twin."""
        if webui.is_plain(plan.settings):
            return
        try:
            self._take_over(p, plan)
        except Exception as error:  # as in choose(); the sampler is still the host's
            refuse(p, plan, error, pass_of(p))

    def _take_over(self, p: Any, plan: webui.Plan) -> None:
        name, own = p.sampler.config.name, getattr(p.sampler, "func", None)
        if not faces.is_twin(name) or getattr(own, _OURS, False):
            return
        rule = faces.face_for(name)[0].rule
        if not callable(own) or not _FORMS & set(inspect.signature(own).parameters):
            webui.note(
                p, plan, f"sampler {name!r} is another one in this host. The image is synchronous."
            )
            return
        exchanged = name in faces.EXCHANGED
        function = self._function(rule, own) if exchanged else self.functions[rule]
        setattr(function, _OURS, True)
        p.sampler.func = function


def _construct(function: Callable, model: Any) -> KDiffusionSampler:
    return KDiffusionSampler(function, model)


def _name_for(p: Any, plan: webui.Plan, name: str) -> str:
    # Without this hook (before v1.10) nothing can be exchanged later; nor where a script makes the
    # sampler in a function of its own (img2img alternative).
    hooked = hasattr(scripts.Script, "process_before_every_sampling") and "sample" not in vars(p)
    face, equal = faces.face_for(name, hooked)
    if not equal:
        why = f" ({faces.NO_FORM[name]})" if name in faces.NO_FORM else ""
        webui.note(
            p,
            plan,
            f"sampler {name!r} has no asynchronous form{why}; {face.name!r} is used instead.",
        )
    later = faces.is_twin(name) and hooked
    return name if faces.is_own(name) or later else face.name


def _host_functions() -> Any:
    """The module the host takes its own k-diffusion samplers from; reForge has two to choose."""
    chosen = getattr(sd_samplers_kdiffusion, "sampling", None)
    return chosen or sd_samplers_kdiffusion.k_diffusion.sampling
