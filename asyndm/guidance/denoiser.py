"""A diffusers U-Net as a k-diffusion denoiser, guided by any method."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from asyndm.core.parametrisation import Parametrisation
from asyndm.core.rows import UNCONDITIONAL, Rows
from asyndm.core.run import NetworkCall
from asyndm.guidance.guide import Guide
from asyndm.network.denoiser import GuidedDenoiser


class MethodDenoiser(GuidedDenoiser):
    """With a method's predictions.

    Args:
        unet: a diffusers ``UNet2DConditionModel``.
        parametrisation: what it predicts.
        call: the channel to the sampling run.
        guide: of the run.
    """

    def __init__(
        self, unet: nn.Module, parametrisation: Parametrisation, call: NetworkCall, guide: Guide
    ) -> None:
        super().__init__(unet, parametrisation, call)
        self.guide = guide

    def __call__(
        self,
        x: Tensor,
        sigma: Tensor,
        *,
        cond: Tensor,
        uncond: Tensor,
        cond_scale: float,
        network_arguments: dict[str, Any] | None = None,
    ) -> Tensor:
        """The guided denoised prediction, [B, C, H, W].

        Args:
            x: noisy latents [B, C, H, W].
            sigma: [B], the host's noise level.
            cond, uncond: contexts [B, tokens, width].
            cond_scale: guidance w.
            network_arguments: passed on to the UNet, for the rows of the whole batch.
        """
        guide = self.guide
        guide.begin_prediction()
        wants = guide.wants(cond_scale)
        level = self.level(sigma)
        contexts = [uncond] * wants.uncond + [cond] * wants.cond
        parts = [UNCONDITIONAL] * wants.uncond + [0] * wants.cond
        rows = self._rows(x, parts)
        guesses = self.predictions(x, sigma, level, contexts, rows, network_arguments)
        free = guesses.pop(0) if wants.uncond else None
        if not wants.cond:
            guide.uncond = free
            return free
        perturbed = None
        if wants.perturbed:
            with guide.perturbing():
                rows = self._rows(x, [0])
                (perturbed,) = self.predictions(x, sigma, level, [cond], rows, network_arguments)
        return guide.combine(guesses[0], free, level, cond_scale, perturbed)

    def _rows(self, x: Tensor, parts: list[int]) -> Rows:
        images = [image for _ in parts for image in range(len(x))]
        return Rows.of(images, [part for part in parts for _ in range(len(x))], x.device)
