"""A diffusers U-Net as a k-diffusion denoiser, guided by any method."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from asyndm.core.parametrisation import Parametrisation, align
from asyndm.core.rows import UNCONDITIONAL, Rows
from asyndm.core.run import NetworkCall
from asyndm.guidance.guide import Guide


class MethodDenoiser:
    """As :class:`asyndm.network.denoiser.GuidedDenoiser`, with a method's predictions.

    Args:
        unet: a diffusers ``UNet2DConditionModel``.
        parametrisation: what it predicts.
        call: the channel to the sampling run.
        guide: of the run.
    """

    def __init__(
        self, unet: nn.Module, parametrisation: Parametrisation, call: NetworkCall, guide: Guide
    ) -> None:
        self.unet, self.parametrisation, self.call, self.guide = unet, parametrisation, call, guide

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
        time = self.call.pixel_time
        level = sigma if time is None else time.sigma_map()
        contexts = [uncond] * wants.uncond + [cond] * wants.cond
        parts = [UNCONDITIONAL] * wants.uncond + [0] * wants.cond
        more = network_arguments or {}
        guesses = self._network(x, sigma, level, contexts, parts, more)
        free = guesses.pop(0) if wants.uncond else None
        if not wants.cond:
            guide.uncond = free
            return free
        perturbed = None
        if wants.perturbed:
            with guide.perturbing():
                (perturbed,) = self._network(x, sigma, level, [cond], [0], more)
        return guide.combine(guesses[0], free, level, cond_scale, perturbed)

    def _network(
        self,
        x: Tensor,
        sigma: Tensor,
        level: Tensor,
        contexts: list[Tensor],
        parts: list[int],
        more: dict[str, Any],
    ) -> list[Tensor]:
        copies, batch = len(contexts), len(x)
        images = [image for _ in contexts for image in range(batch)]
        order = [part for part in parts for _ in range(batch)]
        self.call.rows = Rows.of(images, order, x.device)
        scaled = x * align(self.parametrisation.c_in(level), x)
        timestep = self.parametrisation.timestep(sigma).to(x.dtype)
        output = self.unet(
            torch.cat([scaled] * copies),
            torch.cat([timestep] * copies),
            encoder_hidden_states=torch.cat(contexts),
            **more,
        ).sample
        return [self.parametrisation.denoised(x, part, level) for part in output.chunk(copies)]
