"""Inpainting with the embedded model: repaint a region of a picture, keep the rest."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from asyndm.core.masks import DynamicMasks, GivenMasks
from asyndm.core.run import Director
from asyndm.core.sampling import sample_asyndm, seeded_noise
from asyndm.core.settings import Settings, SettingsError, check_number
from asyndm.core.sigmas import make_sigmas
from asyndm.core.words import objects_of
from asyndm.network import attach
from asyndm.network.denoiser import GuidedDenoiser

from .objects import capture_of
from .pipeline import Request, ScenePipeline
from .train import to_input

SLOW = ("region", "all", "context")


class KeepingDenoiser:
    """A denoiser whose prediction is the known latents wherever nothing is repainted.

    The blend every WebUI does behind its CFG denoiser; it holds at any noise level, so also where
    the kept region has one of its own.
    """

    def __init__(self, inner: GuidedDenoiser, known: Tensor, region: Tensor) -> None:
        self.inner, self.known, self.region = inner, known, region[:, None]

    def __call__(self, x: Tensor, sigma: Tensor, **conditions: Any) -> Tensor:
        return torch.where(self.region, self.inner(x, sigma, **conditions), self.known)


@torch.no_grad()
def repaint(
    pipeline: ScenePipeline,
    pictures: np.ndarray,
    region: Tensor,
    prompts: Sequence[str],
    seeds: Sequence[int],
    settings: Settings,
    request: Request,
    strength: float = 1.0,
    slow: str = "region",
    report: Callable[[int, int], None] | None = None,
) -> np.ndarray:
    """Pictures whose region was painted anew for their prompts.

    Args:
        pictures: uint8 [B, 64, 64, 3].
        region: bool [B, 16, 16], the latent cells to repaint.
        prompts, seeds: [B].
        settings: AsynDM's; curvature 0 without a lead is plain inpainting. Mask source "given"
            takes the region itself as the object.
        request: steps, guidance, rule, schedule and coupling.
        strength: denoising strength within (0, 1]: the share of the steps that is taken.
        slow: of ``SLOW``; with mask source "given" what walks the curve. "region" is the product;
            the others are its controls: "all" (one slow clock for the whole picture, the kept part
            included) and "context" (the mask inverted: the kept part slow, the region on the
            host's clock).
        report: called after each network call with (calls done, calls in all).

    Returns:
        uint8 [B, 64, 64, 3].

    Raises:
        SettingsError: a strength or a ``slow`` that cannot be used.
    """
    if slow not in SLOW:
        raise SettingsError(f"slow: {slow!r} is unknown; choose of {', '.join(SLOW)}.")
    if slow != "region" and (settings.mask_source != "given" or settings.lead):
        raise SettingsError(f"slow: {slow} needs the mask source 'given' and no context lead.")
    strength = check_number("strength", strength, 0.01, 1)
    known = pipeline.model.autoencoder.encode(to_input(pictures, pipeline.device))
    sigmas = make_sigmas(request.schedule, request.steps, pipeline.parametrisation)
    sigmas = sigmas[request.steps - max(1, round(strength * request.steps)) :]
    watching = None
    if settings.mask_source == "given":
        mask = {"region": region, "all": torch.ones_like(region), "context": ~region}[slow]
        source = GivenMasks(mask, settings.curvature)
    else:
        objects = [objects_of(prompt, settings.objects) for prompt in prompts]
        watching = capture_of(prompts, objects, request.coupling)
        ks = [settings.curvature] * len(watching.columns[0][0])
        source = DynamicMasks(watching, ks, threshold=settings.threshold)
    director = Director.from_settings(
        settings,
        pipeline.parametrisation,
        source,
        allowed=region if slow == "region" else None,  # a run's kept part is never slow otherwise
        known=known,
    )
    noise, region = seeded_noise(known, seeds), region.to(known.device)
    norms = pipeline.norms_of(settings)
    with attach(pipeline.model.unet, director.call, watching, norms):
        latents = sample_asyndm(
            KeepingDenoiser(
                GuidedDenoiser(pipeline.model.unet, pipeline.parametrisation, director.call),
                known,
                region,
            ),
            known + noise(None, None) * sigmas[0],
            sigmas,
            extra_args={
                "cond": pipeline.encode(prompts, request.coupling),
                "uncond": pipeline.encode([""] * len(prompts), request.coupling),
                "cond_scale": request.cfg,
            },
            callback=report and (lambda state: report(state["i"] + 1, len(sigmas) - 1)),
            disable=True,
            director=director,
            rule=request.rule,
            eta=settings.eta,
            noise_sampler=noise,
        )
    return np.asarray(pipeline.model.decode_pixels(latents))
