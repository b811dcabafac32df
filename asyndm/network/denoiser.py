"""A diffusers UNet as a k-diffusion denoiser, with classifier-free guidance."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from asyndm.core.parametrisation import Parametrisation, align
from asyndm.core.rows import Rows
from asyndm.core.run import NetworkCall


class GuidedDenoiser:
    """``model(x, sigma, ...) -> D`` for samplers in the form of k-diffusion's.

    Where the call carries a map of noise levels, it replaces the scalar around the network: in
    what scales x, and in what turns the network's output into D. The timesteps inside the network
    are the business of :func:`asyndm.network.attach`.

    Args:
        unet: a diffusers ``UNet2DConditionModel``.
        parametrisation: what it predicts.
        call: the channel to the sampling run; left out = synchronous.
    """

    def __init__(
        self, unet: nn.Module, parametrisation: Parametrisation, call: NetworkCall | None = None
    ) -> None:
        self.unet, self.parametrisation = unet, parametrisation
        self.call = NetworkCall() if call is None else call

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
        """The guided denoised prediction.

        Args:
            x: noisy latents [B, C, H, W].
            sigma: [B], the host's noise level.
            cond, uncond: contexts [B, tokens, width].
            cond_scale: guidance w; at 1 the unconditional rows are left out.
            network_arguments: passed on to the UNet, rows in the order of the contexts.

        Returns:
            D [B, C, H, W].
        """
        level = self.level(sigma)
        guided = cond_scale != 1
        make_rows = Rows.uncond_then_cond if guided else Rows.only_cond
        rows = make_rows(x.shape[0], device=x.device)
        contexts = [uncond, cond] if guided else [cond]
        parts = self.predictions(x, sigma, level, contexts, rows, network_arguments)
        return parts[0] if not guided else parts[0].lerp(parts[1], cond_scale)

    def level(self, sigma: Tensor) -> Tensor:
        """The noise levels of the call in progress: its map, else the host's ``sigma``."""
        time = self.call.pixel_time
        return sigma if time is None else time.sigma_map()

    def predictions(
        self,
        x: Tensor,
        sigma: Tensor,
        level: Tensor,
        contexts: Sequence[Tensor],
        rows: Rows,
        network_arguments: dict[str, Any] | None = None,
    ) -> list[Tensor]:
        """D [B, C, H, W] for each of some contexts, by one network call.

        Args:
            level: of :meth:`level`.
            contexts: [B, tokens, width] each.
            rows: of all contexts, in their order.
        """
        self.call.rows = rows
        copies = len(contexts)
        scaled = x * align(self.parametrisation.c_in(level), x)
        timestep = self.parametrisation.timestep(sigma).to(x.dtype)
        output = self.unet(
            torch.cat([scaled] * copies),
            torch.cat([timestep] * copies),
            encoder_hidden_states=torch.cat(list(contexts)),
            **(network_arguments or {}),
        ).sample
        return [self.parametrisation.denoised(x, part, level) for part in output.chunk(copies)]
