"""Prompt in, pictures out: the embedded model with the core's sampler, method by method."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from asyndm.core.masks import CallableMasks, DynamicMasks, GivenMasks, MapAverage, MaskSource
from asyndm.core.parametrisation import VParametrisation
from asyndm.core.profile import PROFILES
from asyndm.core.run import Director
from asyndm.core.sampling import sample_asyndm, seeded_noise
from asyndm.core.settings import LEARNED, Settings, SettingsError
from asyndm.core.sigmas import make_sigmas
from asyndm.core.words import ObjectWord, match_objects, objects_of
from asyndm.guidance import Guide
from asyndm.guidance import methods as ways
from asyndm.guidance.denoiser import MethodDenoiser
from asyndm.guidance.measure import Measured
from asyndm.network import AttentionCapture, attach
from asyndm.network.norm_table import NormTable
from asyndm.network.norms import REACH, LevelledNorms

from .checker import Verdict, check, object_cells
from .levelled import scene_table
from .model import LATENT_CHANNELS, LATENT_SIZE, PATCH, SceneModel, training_alphas
from .objects import capture_of, curvatures_of
from .request import Request
from .text import parse_prompt, tokenize

METHODS = ("synchronous", "concave", "asyndm", "oracle", "reverse")
Progress = Callable[[float, str], None]


@dataclass(frozen=True)
class Film:
    """An AsynDM run of the first image, step by step.

    Attributes:
        masks: [gh, gw] within 0 and 1, the object mask that steered each step.
        timesteps: [gh, gw] the model timestep of every pixel in each step's network call.
        previews: the decoded denoised prediction of each step.
    """

    masks: list[np.ndarray]
    timesteps: list[np.ndarray]
    previews: list[Image.Image]


@dataclass
class Result:
    """What a request gave. Pictures are 64x64 RGB."""

    images: dict[str, list[Image.Image]]
    verdicts: dict[str, list[Verdict]]
    tokens: list[str]
    objects: list[ObjectWord]
    matched: dict[str, list[int]]
    unmatched: list[str]
    film: Film | None
    notes: list[str]  # one line each, for the user
    request: Request | None = None  # what was asked for
    measured: dict[str, list[Measured]] = field(default_factory=dict)


@dataclass(frozen=True)
class Sampled:
    """Final latents [B, 4, 16, 16], and what the run left to look at."""

    latents: Tensor
    director: Director
    maps: Tensor | None  # attention averaged over the run, where it was captured
    previews: list[Image.Image]
    measured: list[Measured]  # of each image


class Tokenizer:
    """The small world's tokeniser in the form the page expects."""

    def tokens(self, prompt: str, coupling: float = 1.0) -> list[str]:
        """The prompt's tokens, start and end included.

        Raises:
            PromptError: nothing to read or an unknown word, in one line.
        """
        parse_prompt(prompt)
        return tokenize(prompt, coupling)


class ScenePipeline:
    """The embedded model, ready to sample on the CPU."""

    def __init__(self, model: SceneModel) -> None:
        self.model = model
        self._norms: NormTable | None = None
        self.reach = REACH  # of levelled norms
        self.parametrisation = VParametrisation(training_alphas())
        self.tokenizer = Tokenizer()

    @classmethod
    def load(cls, path: Path | str | None = None) -> ScenePipeline:
        """With the weights of the default world, or others: a world's by its name, or a file's.

        Raises:
            FileNotFoundError: there are none.
        """
        return cls(SceneModel.load(path))

    @property
    def world(self) -> str:
        """Of the scenes that the model was trained on."""
        return self.model.world

    @property
    def digest(self) -> str:
        """What tells its weights from others."""
        return self.model.digest

    @property
    def device(self) -> torch.device:
        """Where the model is."""
        return self.model.text.position.device

    def to(self, device: torch.device | str) -> ScenePipeline:
        """The same pipeline, its model on another device.

        Raises:
            SettingsError: torch cannot use it.
        """
        try:
            self.model.to(device)
        except (RuntimeError, AssertionError) as error:
            why = str(error).splitlines()[0]
            raise SettingsError(f"device: {str(device)!r} cannot be used: {why}") from None
        return self

    def norms_of(self, settings: Settings) -> LevelledNorms | None:
        """What levels the norms where the settings say so; its table is made when first asked."""
        if settings.norms == "host":
            return None
        if self._norms is None:
            self._norms = scene_table(self)
        return LevelledNorms(self._norms, reach=self.reach)

    @classmethod
    def random(cls, seed: int = 0) -> ScenePipeline:
        """With untrained weights, for tests of everything but the pictures."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            model = SceneModel()
        return cls(model.eval().requires_grad_(False))

    def generate(
        self,
        request: Request,
        settings: Settings,
        methods: Sequence[str] = ("synchronous", "concave", "asyndm"),
        progress: Progress | None = None,
    ) -> Result:
        """Every method's pictures of one request, at the same seeds.

        Args:
            progress: called with the fraction done and what is being done.

        Raises:
            PromptError: a prompt the model cannot read.
            SettingsError: object words or guidance that cannot be used, or a painted mask that is
                missing.
        """
        ways.check(settings)
        wish = parse_prompt(request.prompt)
        tokens = self.tokenizer.tokens(request.prompt, request.coupling)
        objects = list(objects_of(request.prompt, settings.objects))
        matched, unmatched = match_objects(objects, tokens)
        notes = [
            f"objects: {word!r} is not in the prompt; it steers nothing." for word in unmatched
        ]
        notes += ways.idle(settings) + self._profile_notes(settings, methods)
        if settings.mask_source == "given" and "asyndm" in methods and request.painted is None:
            raise SettingsError(
                "painted mask: it is missing; paint on the canvas or load a picture."
            )
        result = Result({}, {}, tokens, objects, matched, unmatched, None, notes, request)
        for number, method in enumerate(methods):

            def report(step: int, steps: int, number: int = number, method: str = method) -> None:
                if progress is not None:
                    done = (number + step / steps) / len(methods)
                    progress(done, f"{method}, step {min(step + 1, steps)} of {steps}")

            needs_words = method == "asyndm" and settings.mask_source != "given"
            if needs_words and not matched:
                notes.append("objects: no word of the prompt is matched; AsynDM stays synchronous.")
                method_used = "synchronous"
            else:
                method_used = method
            sampled = self.sample(
                [request.prompt] * request.batch,
                [(request.seed + j) % 2**32 for j in range(request.batch)],
                method_used,
                settings,
                request,
                record=method == "asyndm",
                report=report,
            )
            result.measured[method] = sampled.measured
            pixels = self.model.decode_pixels(sampled.latents).numpy()
            result.images[method] = [Image.fromarray(picture) for picture in pixels]
            result.verdicts[method] = [check(picture, wish) for picture in pixels]
            if method == "asyndm":
                frames = sampled.director.history.frames()
                result.film = Film(
                    [frame.mask[0].numpy() for frame in frames],
                    [frame.timestep[0].numpy() for frame in frames],
                    sampled.previews,
                )
        if progress is not None:
            progress(1.0, "done")
        return result

    @torch.no_grad()
    def sample(
        self,
        prompts: Sequence[str],
        seeds: Sequence[int],
        method: str,
        settings: Settings,
        request: Request,
        *,
        record: bool = False,
        keep_maps: bool = False,
        report: Callable[[int, int], None] | None = None,
        grid: int | None = None,
        steps: int | None = None,
    ) -> Sampled:
        """Latents of a batch of prompts by one method.

        Args:
            prompts, seeds: [B]; image j depends on nothing but its own prompt and seed.
            method: one of :data:`METHODS`. "oracle" takes as mask where the checker sees objects
                in the denoised prediction, "reverse" everything else: objects go ahead.
            settings: AsynDM's.
            request: steps, guidance, rule, schedule, coupling and painted mask (its prompt and
                seed are not read).
            record: keep masks, clocks and previews of each step.
            keep_maps: average the attention maps over the run (a base pass for fixed masks).
            report: called after each network call with (calls done, calls in all).
            grid: masks are read from attention of about so many cells a side; None = 16.
            steps: stop after so many of them, with latents that are still noisy; None = all.
        """
        if method not in METHODS:
            raise ValueError(f"method: {method!r} is none of {', '.join(METHODS)}.")
        objects = [objects_of(prompt, settings.objects) for prompt in prompts]
        capture = capture_of(prompts, objects, request.coupling, grid)
        fixed = method == "asyndm" and settings.mask_source == "fixed"
        calls = request.steps * (2 if fixed else 1)
        base = None
        if fixed:
            base = self.sample(
                prompts,
                seeds,
                "synchronous",
                replace(settings, **ways.PLAIN),
                request,
                keep_maps=True,
                report=report and (lambda step, _: report(step, calls)),
                grid=grid,
            )
        curvatures = curvatures_of(prompts, objects, settings, request.coupling)
        maps = base and base.maps
        source = self._source(method, settings, request, capture, maps, curvatures)
        director = Director.from_settings(settings, self.parametrisation, source, record=record)
        average = MapAverage() if keep_maps else None
        previews: list[Image.Image] = []

        def after_call(state: dict) -> None:
            if average is not None:
                average.add(capture.read())
            if record:
                picture = self.model.decode_pixels(state["denoised"][:1])[0].numpy()
                previews.append(Image.fromarray(picture))
            if report is not None:
                report(state["i"] + 1 + calls - request.steps, calls)

        reads_attention = average is not None or isinstance(source, DynamicMasks)
        hooked: AbstractContextManager[None] = nullcontext()
        if method != "synchronous" or reads_attention:
            watching = capture if reads_attention else None
            norms = None if method == "synchronous" else self.norms_of(settings)
            hooked = attach(self.model.unet, director.call, watching, norms)
        shape = (len(prompts), LATENT_CHANNELS, LATENT_SIZE, LATENT_SIZE)
        template = torch.empty(shape, device=self.device)
        noise = seeded_noise(template, seeds)
        sigmas = make_sigmas(request.schedule, request.steps, self.parametrisation)
        conditions = {
            "cond": self.encode(prompts, request.coupling),
            "uncond": self.encode([""] * len(prompts), request.coupling),
            "cond_scale": request.cfg,
        }
        guide = Guide(
            settings, self.parametrisation, director.call, len(prompts), request.steps,
            still=method == "synchronous",
        )  # fmt: skip
        guide.begin(sigmas.tolist())
        with hooked, guide.watching(self.model.unet):
            latents = sample_asyndm(
                MethodDenoiser(self.model.unet, self.parametrisation, director.call, guide),
                noise(None, None) * sigmas[0],
                sigmas,
                extra_args=conditions,
                callback=after_call,
                disable=True,
                director=director,
                rule=guide.rule(request.rule, eta=settings.eta),
                passes=guide.passes,
                uncond=lambda: guide.uncond,
                eta=settings.eta,
                noise_sampler=noise,
                steps=steps,
            )
        measured = guide.measured()
        if base is not None:
            measured = [
                Measured(one.rows + other.rows, one.w_eff)
                for one, other in zip(measured, base.measured)
            ]
        return Sampled(latents, director, average.read() if average else None, previews, measured)

    def _profile_notes(self, settings: Settings, methods: Sequence[str]) -> list[str]:
        """Whether the learned curve is another model's, of the other world say."""
        if settings.curve != LEARNED or not {*methods} - {"synchronous"}:
            return []
        profile = PROFILES.read(settings.profile)
        if not profile.of_another(self.digest):
            return []
        return [
            f"profile: {profile.name!r} was learned on another checkpoint than this one of "
            f"{self.world} ({self.digest[:10]})."
        ]

    def encode(self, prompts: Sequence[str], coupling: float) -> Tensor:
        return self.model.encode_tokens([tokenize(prompt, coupling) for prompt in prompts])

    def _source(
        self,
        method: str,
        settings: Settings,
        request: Request,
        capture: AttentionCapture,
        base: Tensor | None,
        curvatures: list[float],
    ) -> MaskSource:
        if method == "synchronous":
            return GivenMasks(torch.zeros(1, 1, dtype=torch.bool), 0.0)
        if method == "concave":
            largest = settings.curvature
            if settings.mask_source != "given":
                largest = max(curvatures, default=largest)
            return GivenMasks(torch.ones(1, 1, dtype=torch.bool), largest)
        if method == "oracle":
            return CallableMasks(self._seen_objects, [settings.curvature])
        if method == "reverse":
            return CallableMasks(lambda *seen: ~self._seen_objects(*seen), [settings.curvature])
        if settings.mask_source == "given":
            return GivenMasks(cells_of(request.painted), settings.curvature)
        if base is not None:
            return GivenMasks.from_maps(
                base, curvatures, threshold=settings.threshold, soft=settings.soft
            )
        return DynamicMasks(
            capture,
            curvatures,
            threshold=settings.threshold,
            smoothing=settings.smoothing,
            soft=settings.soft,
        )

    def _seen_objects(self, step: int, denoised: Tensor) -> Tensor:
        """bool [B, 16, 16]: latent cells at least a quarter covered by what the checker sees."""
        pixels = self.model.decode_pixels(denoised).numpy()
        return torch.from_numpy(object_cells(pixels, PATCH)).to(denoised.device)


def cells_of(painted: np.ndarray) -> Tensor:
    """bool [16, 16]: latent cells of which the painting covers at least half."""
    picture = Image.fromarray((painted * 255).astype(np.uint8))
    cells = picture.resize((LATENT_SIZE, LATENT_SIZE), Image.Resampling.BOX)
    mask = torch.from_numpy(np.asarray(cells) >= 128)
    if not mask.any():  # a fine stroke: the most covered cell, rather than nothing
        mask = torch.from_numpy(np.asarray(cells) == np.asarray(cells).max())
    return mask
