"""AUTOMATIC1111 v1.9 and v1.10: the samplers, and one asynchronous run inside the host.

The host keeps its scalar sigma for everything it does itself. The map of noise levels acts around
the network only: the k-diffusion wrapper's ``forward`` is shadowed on the instance for as long as
one sampling call lasts, below the CFG denoiser, so that previews, masks and other extensions see
the true latents and the true denoised prediction.
"""

from __future__ import annotations

import copy
import logging
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import k_diffusion.sampling
import torch
from modules import sd_samplers, sd_samplers_common, sd_unet, shared
from modules.sd_samplers_kdiffusion import KDiffusionSampler
from torch import Tensor

from asyndm.hosts import webui
from asyndm.hosts.a1111_prompts import PromptWords
from asyndm.infotext import NOTE_KEY
from asyndm.masks import DynamicMasks, GivenMasks, MapAverage, MaskSource
from asyndm.network import AttentionCapture, RowsMismatch, UnsupportedNetwork, attach
from asyndm.parametrisation import EpsParametrisation, Parametrisation, VParametrisation
from asyndm.run import UNCONDITIONAL, Director, NetworkCall, Rows
from asyndm.sampling import sample_asyndm
from asyndm.settings import Settings, SettingsError

log = logging.getLogger("asyndm")
_RUN = "asyndm_run"  # on the CFG denoiser, while a run lasts


# --- the samplers -------------------------------------------------------------------------------


def asyndm(model, x, sigmas, extra_args=None, callback=None, disable=None, eta=1.0):
    """AsynDM with DDPM's rule, the paper's; twin: Euler a. (arXiv 2510.04504)"""
    return _sample("ddpm", model, x, sigmas, extra_args, callback, disable, eta)


def asyndm_euler(model, x, sigmas, extra_args=None, callback=None, disable=None):
    """AsynDM with Euler's rule; twin: Euler (DDIM)."""
    return _sample("euler", model, x, sigmas, extra_args, callback, disable, 0.0)


def asyndm_dpmpp_2m(model, x, sigmas, extra_args=None, callback=None, disable=None):
    """AsynDM with DPM++ 2M's rule; twin: DPM++ 2M."""
    return _sample("dpmpp_2m", model, x, sigmas, extra_args, callback, disable, 0.0)


FUNCTIONS = {"ddpm": asyndm, "euler": asyndm_euler, "dpmpp_2m": asyndm_dpmpp_2m}
_TWINS = {
    "ddpm": "sample_euler_ancestral",
    "euler": "sample_euler",
    "dpmpp_2m": "sample_dpmpp_2m",
}
_OPTIONS = {"ddpm": {"uses_ensd": True}, "euler": {}, "dpmpp_2m": {"scheduler": "karras"}}


def register_samplers() -> None:
    """Put the samplers into the host's list, once."""
    own = {face.name for face in webui.SAMPLERS}
    # Reload UI runs this again while the host keeps its list: take out what was there.
    sd_samplers.all_samplers[:] = [s for s in sd_samplers.all_samplers if s.name not in own]
    hidden = getattr(shared.cmd_opts, "asyndm_hide_samplers", False)
    for face in webui.SAMPLERS:
        data = _sampler_data(face)
        if not hidden:
            sd_samplers.all_samplers.append(data)
        sd_samplers.all_samplers_map[face.name] = data
    sd_samplers.get_sampler_and_scheduler.cache_clear()
    sd_samplers.set_samplers()


def _sampler_data(face: webui.SamplerFace) -> sd_samplers_common.SamplerData:
    def construct(model: Any) -> KDiffusionSampler:
        return KDiffusionSampler(FUNCTIONS[face.rule], model)

    alias = face.name.lower().replace(" ", "_").replace("+", "p")
    return sd_samplers_common.SamplerData(face.name, construct, [alias], _OPTIONS[face.rule])


def choose_samplers(p: Any, plan: webui.Plan) -> None:
    """When a job that is on begins: ours in the place of samplers that have no form of their own.

    This early, because the host counts the calls of a sampler when it schedules the prompts.
    """
    first = p.sampler_name
    p.sampler_name = _name_for(p, plan, first)
    if not getattr(p, "enable_hr", False):
        return
    second = p.hr_sampler_name or first
    if plan.settings.hires:
        second = _name_for(p, plan, second)
    p.hr_sampler_name = None if second == p.sampler_name else second


def _name_for(p: Any, plan: webui.Plan, name: str) -> str:
    face, equal = webui.face_for(name)
    if not equal:
        note(p, plan, f"sampler {name!r} has no asynchronous form; {face.name!r} is used instead.")
    return name if name in (face.name, face.twin) else face.name


def take_over_sampler(p: Any) -> None:
    """Before a sampling call of a job that is on: our function in the host's Euler a and others."""
    face, equal = webui.face_for(p.sampler.config.name)
    if equal and isinstance(p.sampler, KDiffusionSampler):
        p.sampler.func = FUNCTIONS[face.rule]


def note(p: Any, plan: webui.Plan, text: str) -> None:
    """One line for the user: in the log, below the image and in its parameters."""
    line = f"AsynDM: {text}"
    if line not in plan.notes:
        plan.notes.append(line)
    announce(p, plan)


def announce(p: Any, plan: webui.Plan) -> None:
    """Say the plan's notes where a user, an API client and a reader of the log will see them."""
    for line in plan.notes:
        if line not in p.comments:
            log.warning(line)
            p.comment(line)
    notes = [line.removeprefix("AsynDM: ") for line in plan.notes]
    if notes:
        p.extra_generation_params[NOTE_KEY] = " ".join(notes)


# --- one run ------------------------------------------------------------------------------------


def _sample(rule, model, x, sigmas, extra_args, callback, disable, eta):
    p = model.p
    plan = getattr(p, webui.ATTRIBUTE, None)
    if plan is None:  # chosen as a sampler where the script does not run
        plan = webui.Plan(Settings(enabled=True))

    def synchronous():
        return _run_twin(rule, model, x, sigmas, extra_args, callback, disable, eta)

    skipped = getattr(p, "_ad_inner", False)  # ADetailer's inner passes repaint small regions
    if not plan.on or skipped or (_is_hires(p) and not plan.settings.hires):
        return synchronous()
    first = model.step
    try:
        run = HostRun(plan.settings, plan, model, x)
        if not run.moves:
            return synchronous()
        return run.sample(rule, x, sigmas, extra_args, callback, disable, eta)
    except (SettingsError, UnsupportedNetwork, RowsMismatch, IndexError) as error:
        if model.step != first:
            raise  # the latents are at mixed noise levels: nothing else can finish them
        note(p, plan, f"{_one_line(error)} The image is synchronous.")
        return synchronous()


def _run_twin(rule, model, x, sigmas, extra_args, callback, disable, eta):
    """The host's own sampler of a rule."""
    twin = getattr(k_diffusion.sampling, _TWINS[rule])
    extra = {"eta": eta} if rule == "ddpm" else {}
    return twin(model, x, sigmas, extra_args, callback, disable, **extra)


class HostRun:
    """One asynchronous sampling call.

    Args:
        settings: that are on.
        plan: for notes and pictures.
        denoiser: the host's CFG denoiser.
        x: the latents it starts from, [B, C, H, W].

    Raises:
        SettingsError: something this run cannot use, in one line.
        UnsupportedNetwork: a model AsynDM cannot steer.
    """

    def __init__(self, settings: Settings, plan: webui.Plan, denoiser: Any, x: Tensor) -> None:
        self.settings, self.plan, self.denoiser, self.p = settings, plan, denoiser, denoiser.p
        _check_model()
        self.parametrisation = parametrisation_of(denoiser.inner_model)
        self.words = self._words() if settings.mask_source != "given" else None
        self.capture: AttentionCapture | None = None
        if self.words is not None:
            self.capture = AttentionCapture(self.words.columns(denoiser.step))
            self.curvatures = self.words.curvatures(settings.curvature)
        else:
            self.curvatures = [settings.curvature]
        self.call = NetworkCall()
        self._size = tuple(x.shape[-2:])
        self._rows: Rows | None = None
        self._taken = 0  # rows of this step that network calls have had
        self._row_maps: dict[tuple, Rows] = {}
        self._attached: ExitStack | None = None
        self._to: tuple | None = None

    @property
    def moves(self) -> bool:
        """False where nothing could ever be asynchronous."""
        led = self.settings.lead > 0 and self.denoiser.nmask is not None
        if self.words is not None and not self.words.matched:
            named = ", ".join(self.words.unmatched) or "none found"
            note(
                self.p,
                self.plan,
                f"no object word is in the prompt ({named}). The image is synchronous.",
            )
            return False
        return led or any(k > 0 for k in self.curvatures)

    def sample(self, rule, x, sigmas, extra_args, callback, disable, eta) -> Tensor:
        """The latents at the end of the host's list."""
        self._tell_words()
        with self._running():
            source = self._source(rule, x, sigmas, extra_args, disable, eta)
            director = self._director(source)
            self.call = director.call
            self.reads = isinstance(source, DynamicMasks)
            image = sample_asyndm(
                self.denoiser,
                x,
                sigmas,
                extra_args,
                callback,
                disable,
                director=director,
                rule=rule,
                eta=eta,
                noise_sampler=_host_noise(x),
            )
        if director.history is not None:
            matched = self.words.matched if self.words is not None else {}
            self.plan.shots.append(
                webui.Shot(
                    getattr(self.p, "iteration", 0),
                    _is_hires(self.p),
                    ", ".join(matched) or "painted",
                    director.history.frames(),
                )
            )
        return image

    # --- called by the host, around the network ---

    def before_network(self, params: Any) -> None:
        """The ``cfg_denoiser`` callback: after a refiner switch, before the network's calls."""
        self._attach()
        self._rows, self._taken = self._row_map(params.x.shape[0], params.x.device), 0
        if self.words is not None and self.capture is not None:
            columns = self.words.columns(self.denoiser.step)
            if columns != self.capture.columns:
                self.capture.aim(columns)

    def _forward(self, wrap: Any, plain: Callable) -> Callable:
        """What stands in for the wrapper's ``forward``."""
        parametrisation = parametrisation_of(wrap)
        network = wrap.get_v if hasattr(wrap, "get_v") else wrap.get_eps

        def forward(input: Tensor, sigma: Tensor, **kwargs: Any) -> Tensor:  # the host's names
            self.call.rows = rows = self._next_rows(input)
            time = self.call.pixel_time
            if time is None:
                return plain(input, sigma, **kwargs)
            level = time.sigma_map()[rows.image]
            scaled = input * parametrisation.c_in(level)
            output = network(scaled, wrap.sigma_to_t(sigma), **kwargs)
            return parametrisation.denoised(input, output, level)

        return forward

    def _next_rows(self, x: Tensor) -> Rows:
        """The host may cut a step's rows into several calls, one after the other."""
        first, self._taken = self._taken, self._taken + len(x)
        if self._rows is not None and self._taken <= len(self._rows):
            return self._rows[first : self._taken]
        batch = len(self.denoiser.sampler.sampler_extra_args["cond"].batch)
        if len(x) % batch:
            raise RowsMismatch(f"A network call of {len(x)} rows does not fit {batch} images.")
        # Another extension's call of its own: whole batches, not to read masks from.
        return Rows.of([i % batch for i in range(len(x))], [UNCONDITIONAL] * len(x), x.device)

    def _row_map(self, rows: int, device: torch.device) -> Rows:
        """All conditional rows, image by image with their AND parts, then unconditional batches."""
        parts = [len(image) for image in self.denoiser.sampler.sampler_extra_args["cond"].batch]
        key = (rows, *parts, device)
        if key not in self._row_maps:
            images = [image for image, count in enumerate(parts) for _ in range(count)]
            order = [part for count in parts for part in range(count)]
            rest = rows - len(images)
            if rest < 0 or rest % len(parts):
                raise RowsMismatch(f"{rows} network rows do not fit prompts of {parts} parts.")
            self._row_maps[key] = Rows.of(
                images + [i % len(parts) for i in range(rest)],
                order + [UNCONDITIONAL] * rest,
                device,
            )
        return self._row_maps[key]

    # --- what is put in place for the call, and taken away ---

    @contextmanager
    def _running(self) -> Iterator[None]:
        setattr(self.denoiser, _RUN, self)
        try:
            yield
        finally:
            self._detach()
            delattr(self.denoiser, _RUN)

    reads = True  # masks are read from attention in the call in progress

    def _attach(self) -> None:
        """Hooks in the network and around it; anew where a refiner brought another one."""
        wrap, unet = self.denoiser.inner_model, shared.sd_model.model.diffusion_model
        now = (wrap, unet, self.call, self.reads)
        if self._to is not None and all(a is b for a, b in zip(self._to, now)):
            return
        self._detach()
        _check_model()
        stack = ExitStack()
        stack.enter_context(attach(unet, self.call, self.capture if self.reads else None))
        stack.enter_context(_shadowed(wrap, "forward", self._forward(wrap, wrap.forward)))
        self._attached, self._to = stack, now

    def _detach(self) -> None:
        stack, self._attached, self._to = self._attached, None, None
        if stack is not None:
            stack.close()

    # --- what a run is made of ---

    def _words(self) -> PromptWords:
        p, hires = self.p, _is_hires(self.p)
        prompts = (getattr(p, "hr_prompts", None) or p.prompts) if hires else p.prompts
        steps = p.firstpass_steps
        hires_steps = _hires_steps(p) if hires else None
        conditioning = self.denoiser.sampler.sampler_extra_args["cond"]
        return PromptWords(prompts, self.settings.objects, conditioning, steps, hires_steps)

    def _tell_words(self) -> None:
        if self.words is None:
            return
        self.p.comment(f"AsynDM objects: {webui.describe_match(self.words.matched)}")
        if self.words.unmatched:
            named = ", ".join(repr(word) for word in self.words.unmatched)
            note(self.p, self.plan, f"objects: {named} is not in the prompt; it steers nothing.")

    def _source(self, rule, x, sigmas, extra_args, disable, eta) -> MaskSource:
        settings = self.settings
        if settings.mask_source == "given":
            return GivenMasks(self._given().to(x.device), settings.curvature)
        if settings.mask_source == "fixed":
            maps = self._base_pass(rule, x, sigmas, extra_args, disable, eta)
            return GivenMasks.from_maps(
                maps, self.curvatures, threshold=settings.threshold, soft=settings.soft
            )
        return DynamicMasks(
            self.capture,
            self.curvatures,
            threshold=settings.threshold,
            smoothing=settings.smoothing,
            soft=settings.soft,
        )

    def _given(self) -> Tensor:
        """The painted region: inpainting's own, or the accordion's mask. bool [H, W]."""
        if self.denoiser.nmask is not None:
            return _one_mask(self.denoiser.nmask) >= 0.5
        if self.plan.painted is None:
            raise SettingsError(
                "mask_source: nothing is painted; paint a mask in the accordion or use inpaint."
            )
        return torch.from_numpy(webui.mask_cells(self.plan.painted, self._size))

    def _director(self, source: MaskSource) -> Director:
        nmask = self.denoiser.nmask
        return Director.from_settings(
            self.settings,
            self.parametrisation,
            source,
            allowed=None if nmask is None else _one_mask(nmask),
            known=None if nmask is None else self.denoiser.init_latent,
            timestep=_host_timesteps(self.denoiser.inner_model, self.parametrisation),
            record=self.settings.show_masks or self.settings.save_masks,
        )

    def _base_pass(self, rule, x, sigmas, extra_args, disable, eta) -> Tensor:
        """Attention averaged over a synchronous pass, [B, O, gh, gw]; the run starts afresh."""
        if getattr(self.p, "refiner_checkpoint_info", None) is not None:
            raise SettingsError(
                "mask_source: fixed masks need two passes, and a refiner changes the model in the "
                "first; choose dynamic."
            )
        average = MapAverage()

        def collect(state: dict) -> None:
            average.add(self.capture.read())
            shared.state.sampling_step = state["i"]

        step, random = self.denoiser.step, _random_state(self.p.rng)
        _run_twin(rule, self.denoiser, x, sigmas, extra_args, collect, disable, eta)
        self.denoiser.step = step
        _restore_random(self.p.rng, random)
        return average.read()


def on_cfg_denoiser(params: Any) -> None:
    """Registered once with the host; does nothing unless a run of ours is in progress."""
    run = getattr(params.denoiser, _RUN, None)
    if run is not None:
        run.before_network(params)


# --- the host's ways ----------------------------------------------------------------------------


def parametrisation_of(wrap: Any) -> Parametrisation:
    """The parametrisation of a k-diffusion wrapper around an ldm model.

    Raises:
        UnsupportedNetwork: another kind of wrapper.
    """
    if not hasattr(wrap, "sigma_to_t") or not (hasattr(wrap, "get_eps") or hasattr(wrap, "get_v")):
        raise UnsupportedNetwork("This model predicts neither noise nor v; AsynDM cannot steer it.")
    alphas = 1 / (1 + wrap.sigmas.detach().double().cpu() ** 2)
    return VParametrisation(alphas) if hasattr(wrap, "get_v") else EpsParametrisation(alphas)


def _host_timesteps(wrap: Any, parametrisation: Parametrisation) -> Callable[[Tensor], Tensor]:
    """k-diffusion's rule: within its table, whole numbers where it quantises."""
    last, rounds = len(wrap.sigmas) - 1, bool(getattr(wrap, "quantize", False))

    def timesteps(sigmas: Tensor) -> Tensor:
        exact = parametrisation.timestep(sigmas).clamp(0, last)
        return exact.round() if rounds else exact

    return timesteps


def _check_model() -> None:
    """Refuse, in one line, what AsynDM cannot look into."""
    if sd_unet.current_unet is not None:
        name = getattr(getattr(sd_unet.current_unet, "option", None), "label", "another network")
        raise UnsupportedNetwork(
            f"SD Unet {name!r} replaces the PyTorch network; set Settings > SD Unet to None."
        )
    if getattr(shared.sd_model, "is_sd3", False):
        raise UnsupportedNetwork("Stable Diffusion 3 is not supported yet.")


def _is_hires(p: Any) -> bool:
    return bool(getattr(p, "is_hr_pass", False))


def _hires_steps(p: Any) -> int:
    """The steps the host schedules a second pass's prompts with."""
    config = sd_samplers.find_sampler_config(p.hr_sampler_name or p.sampler_name)
    steps = p.hr_second_pass_steps or p.steps
    return config.total_steps(steps) if config else steps


def _host_noise(x: Tensor) -> Callable[[Any, Any], Tensor]:
    """Noise as the host's own samplers draw it: an image's depends on its seed alone."""
    return lambda sigma, sigma_next: k_diffusion.sampling.torch.randn_like(x)


def _one_mask(mask: Tensor) -> Tensor:
    """[H, W] or [B, H, W] of the host's repaint mask [C, H, W] or [B, C, H, W]."""
    return mask[..., 0, :, :]


def _random_state(rng: Any) -> list[Any]:
    return [
        g.get_state() if isinstance(g, torch.Generator) else copy.deepcopy(g.__dict__)
        for g in rng.generators
    ]


def _restore_random(rng: Any, states: list[Any]) -> None:
    for generator, state in zip(rng.generators, states):
        if isinstance(generator, torch.Generator):
            generator.set_state(state)
        else:
            generator.__dict__.update(state)


@contextmanager
def _shadowed(owner: Any, name: str, value: Any) -> Iterator[None]:
    """An attribute set on the instance, and as it was afterwards."""
    own = vars(owner)
    before = own.get(name, _RUN)
    own[name] = value
    try:
        yield
    finally:
        if before is _RUN:
            own.pop(name, None)
        else:
            own[name] = before


def _one_line(error: BaseException) -> str:
    text = " ".join(str(error).split())
    return text if text.endswith(".") else text + "."
