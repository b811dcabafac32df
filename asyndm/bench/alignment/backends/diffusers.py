"""A checkpoint of diffusers by :func:`asyndm.steer`: a folder, or a single file."""

from __future__ import annotations

import hashlib
import inspect
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from asyndm.core.settings import Settings, SettingsError
from asyndm.core.words import auto_objects
from asyndm.guidance import methods as ways
from asyndm.network import UnsupportedNetwork
from asyndm.pipelines import load_pipeline, size_of, steer
from asyndm.pipelines.result import Steered
from asyndm.pipelines.single_file import config_of
from asyndm.pipelines.views import is_packed

from ..adaptive import LOOK, Glimpse
from ..methods import Method
from ..prompt_sets import Prompt
from .base import CANNOT_TELL, Backend, Drawn, Job, Setup

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
# rule -> (diffusers' scheduler, its configuration, eta of the pipeline's call)
RULES: dict[str, tuple[str, dict[str, Any], float]] = {
    "ddpm": ("DDIMScheduler", {}, 1.0),  # the paper's: DDIM with eta 1
    "ddim": ("DDIMScheduler", {}, 0.0),
    "euler": ("EulerDiscreteScheduler", {}, 0.0),
    "euler_a": ("EulerAncestralDiscreteScheduler", {}, 0.0),
    "dpmpp_2m": ("DPMSolverMultistepScheduler", {}, 0.0),
    "dpmpp_2m_sde": (
        "DPMSolverMultistepScheduler", {"algorithm_type": "sde-dpmsolver++"}, 0.0,
    ),
}  # fmt: skip
FLOW_RULES = {"euler": ("FlowMatchEulerDiscreteScheduler", {}, 0.0)}  # of rectified flows
SCHEDULES = {"own": {}, "karras": {"use_karras_sigmas": True}}
_CFG = {"unet": 7.5, "sd3": 7.0, "flux": 3.5}


class Diffusers(Backend):
    """Draws on CUDA, MPS or the CPU.

    Args:
        where: the checkpoint.

    Raises:
        SettingsError: it cannot be loaded or steered, or a value that this backend does not know.
    """

    batch = 4

    def __init__(self, where: str, setup: Setup) -> None:
        if not where:
            raise SettingsError("backend: write diffusers:PATH, a folder or a file.")
        for name, known in (("rule", RULES), ("schedule", SCHEDULES), ("precision", DTYPES)):
            value = getattr(setup, name)
            if value is not None and value not in known:
                raise SettingsError(f"{name}: {value!r} is unknown; choose of {', '.join(known)}.")
        self.path, config = Path(where), setup.options.get("config")
        if config is not None and not self.path.is_file():
            raise SettingsError(
                "config: a folder has its own, and a name on the hub; leave it out."
            )
        self.config = config_of(self.path, config) if self.path.is_file() else None
        device = setup.options.get("device") or _best_device()
        offload = bool(setup.options.get("offload"))
        try:
            self.pipe = load_pipeline(
                self.path, "cpu" if offload else device, DTYPES[setup.precision], self.config
            )
            with steer(self.pipe, film=False):
                pass
        except UnsupportedNetwork as error:
            raise SettingsError(f"backend: {error}") from None
        except (RuntimeError, AssertionError) as error:
            why = str(error).splitlines()[0]
            raise SettingsError(f"device: {device!r} cannot be used: {why:.100}") from None
        if offload:
            self.pipe.enable_model_cpu_offload(device=device)
        height, width = size_of(self.pipe)
        transformer = getattr(self.pipe, "transformer", None)
        self.packed = transformer is not None and is_packed(transformer)
        rules = RULES if transformer is None else FLOW_RULES
        rule = setup.rule or next(iter(rules))
        if rule not in rules:
            raise SettingsError(
                f"rule: {rule!r} has no form with this model; choose of {', '.join(rules)}."
            )
        kind = "unet" if transformer is None else "flux" if self.packed else "sd3"
        self.setup = replace(
            setup,
            cfg=_CFG[kind] if setup.cfg is None else setup.cfg,
            rule=rule,
            schedule=setup.schedule or "own",
            size=setup.size or (width, height),
        )
        kind, config, self.eta = rules[rule]
        self._schedule(kind, {**config, **SCHEDULES[self.setup.schedule]})

    def _schedule(self, kind: str, config: dict[str, Any]) -> None:
        import diffusers

        if self.setup.schedule == "karras" and kind not in (
            "EulerDiscreteScheduler", "DPMSolverMultistepScheduler",
            "FlowMatchEulerDiscreteScheduler",
        ):  # fmt: skip
            raise SettingsError(
                f"schedule: diffusers' {kind} has no 'karras'; use --rule euler or dpmpp_2m."
            )
        own = getattr(diffusers, kind)
        for name in config:
            if name not in inspect.signature(own.__init__).parameters:
                raise SettingsError(f"schedule: this diffusers' {kind} has no {name}.")
        made = own.from_config(self.pipe.scheduler.config, **config)
        self.pipe.scheduler = made

    def identity(self) -> dict[str, Any]:
        known = {"backend": "diffusers", "checkpoint": self.path.name, "hash": hash_of(self.path)}
        if self.config is not None:
            known["config"] = hash_of(self.config, "*.json", "*.txt")
        return known

    def check(self, methods: list[Method], prompts: list[Prompt]) -> None:
        for method in methods:
            if method.clock == "oracle":
                raise SettingsError("methods: oracle is the embedded model's; leave it out.")
            if method.grid is not None and getattr(self.pipe, "unet", None) is None:
                raise SettingsError(
                    f"methods: {method.text}: a transformer has one grid of tokens; leave grid out."
                )
            if self.packed and ways.guides(method.settings):
                raise SettingsError(
                    f"methods: {method.text}: Flux is drawn without a prediction without the "
                    "prompt, which this guidance needs; leave it out."
                )
            try:
                with steer(self.pipe, _settings(method, ""), film=False):
                    pass
            except (SettingsError, UnsupportedNetwork) as error:
                raise SettingsError(f"methods: {method.text}: {error}") from None

    def _called(self, jobs: list[Job], **more: Any) -> tuple[Any, Steered]:
        """The pipeline's pictures of one method, and what steering left."""
        method, setup = jobs[0].method, self.setup
        width, height = setup.size
        if setup.rule in ("ddpm", "ddim"):
            more["eta"] = self.eta
        try:
            settings = _settings(method, jobs[0].prompt.text)
            with steer(self.pipe, settings, grid=method.grid) as steered:
                images = self.pipe(
                    prompt=[job.prompt.text for job in jobs],
                    generator=[torch.Generator().manual_seed(job.seed) for job in jobs],
                    num_inference_steps=setup.steps if method.steps is None else method.steps,
                    guidance_scale=setup.cfg if method.w is None else method.w,
                    width=width,
                    height=height,
                    **more,
                ).images
                return images, steered
        except torch.cuda.OutOfMemoryError:
            raise SettingsError(
                f"batch: {len(jobs)} pictures of {width}x{height} do not fit the GPU; take a "
                "smaller --batch, --precision float16 or --offload. What is drawn stays."
            ) from None

    def glimpse(self, jobs: list[Job]) -> list[Glimpse]:
        def watch(pipe: Any, step: int, timestep: Any, given: dict[str, Any]) -> dict[str, Any]:
            if step + 1 >= LOOK:
                pipe._interrupt = True  # its loop runs out without calls
            return given

        _, steered = self._called(jobs, callback_on_step_end=watch, output_type="latent")
        shares = [0.0] * len(jobs)  # where no word is matched nothing is masked
        if steered.last_mask is not None:
            shares = steered.last_mask.mean((1, 2)).tolist()
        elif any(steered.words):
            raise SettingsError(CANNOT_TELL)
        counts = [len(auto_objects(job.prompt.text)) for job in jobs]
        rows = [one.rows for one in steered.measured]
        return [Glimpse(*each) for each in zip(counts, shares, rows)]

    def draw(self, jobs: list[Job]) -> list[Drawn]:
        start = time.perf_counter()
        images, steered = self._called(jobs)
        seconds = (time.perf_counter() - start) / len(jobs)
        masks = steered.masks
        blank = [None] * len(jobs)
        measured = steered.measured or blank
        return [
            Drawn(
                image,
                None if one is None else one.rows,
                seconds,
                None if one is None else one.w_eff,
                tuple(steered.notes),
                None if masks is None else masks[j],
            )
            for j, (image, one) in enumerate(zip(images, measured))
        ]


def _settings(method: Method, prompt: str) -> Settings:
    return replace(method.settings_for(prompt), clock=method.clock)


def _best_device() -> str:
    if torch.cuda.is_available():
        return "cuda"
    return "mps" if torch.backends.mps.is_available() else "cpu"


def hash_of(path: Path, *kinds: str) -> str:
    """Of a checkpoint: of its files' names, sizes and first and last megabyte.

    Args:
        kinds: patterns of a folder's files that count; none = all of them.
    """
    digest = hashlib.sha256()
    within = [one for kind in kinds or ("*",) for one in path.rglob(kind) if one.is_file()]
    files = sorted(within) if path.is_dir() else [path]
    for one in files:
        size = one.stat().st_size
        digest.update(f"{one.relative_to(path) if path.is_dir() else ''} {size}".encode())
        with open(one, "rb") as content:
            digest.update(content.read(1 << 20))
            if size > 1 << 20:
                content.seek(-(1 << 20), 2)
                digest.update(content.read())
    return digest.hexdigest()[:16]
