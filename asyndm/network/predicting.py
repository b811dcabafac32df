"""A diffusers U-Net as the context map asks it: pixels at two noise levels, without guidance."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn

from asyndm.core.masks import binary_masks
from asyndm.core.parametrisation import Parametrisation
from asyndm.core.run import NetworkCall
from asyndm.core.schedule import PixelTime
from asyndm.network.calibrate import from_latents
from asyndm.network.capture import AttentionCapture
from asyndm.network.context_map import Predictor
from asyndm.network.denoiser import GuidedDenoiser
from asyndm.network.families import attach
from asyndm.network.norms import LevelledNorms


@contextmanager
def predicting(
    unet: nn.Module,
    parametrisation: Parametrisation,
    condition: Tensor,
    capture: AttentionCapture | None = None,
    *,
    threshold: float = 1.0,
    network_arguments: dict[str, Any] | None = None,
    norms: LevelledNorms | None = None,
) -> Iterator[Predictor]:
    """A diffusers U-Net as a :class:`Predictor`; hooks are gone behind the block.

    Args:
        unet: the network.
        parametrisation: what it predicts.
        condition: [B, tokens, width].
        capture: the pictures' object words.
        threshold: of the masks that attention gives.
        network_arguments: passed on to the U-Net.
        norms: levels the group norms; None = they stay as they are.
    """
    call = NetworkCall()
    with attach(unet, call, capture, norms):
        yield _Prediction(
            GuidedDenoiser(unet, parametrisation, call),
            condition,
            capture,
            threshold,
            network_arguments,
        )


def levelled_by(
    unet: nn.Module,
    parametrisation: Parametrisation,
    condition: Tensor,
    latents: Tensor,
    network_arguments: dict[str, Any] | None = None,
) -> LevelledNorms:
    """Levelled norms of a U-Net, calibrated on clean pictures, without unconditional rows.

    Args:
        unet, parametrisation, condition, network_arguments: as in :func:`predicting`.
        latents: [B, C, h, w] clean, of other pictures than those to be measured.
    """

    def call(x: Tensor, timesteps: Tensor) -> Tensor:
        more = network_arguments or {}
        return unet(x, timesteps, encoder_hidden_states=condition, **more).sample

    alphas = 1 / (1 + parametrisation.sigmas**2)
    return LevelledNorms(from_latents(call, unet, latents, [0] * len(latents), alphas))


class _Prediction:
    def __init__(self, denoiser, condition, capture, threshold, arguments) -> None:
        self.denoiser, self.condition, self.capture = denoiser, condition, capture
        self.threshold, self.arguments = threshold, arguments

    def __call__(self, x: Tensor, time: PixelTime) -> Tensor:
        call, parametrisation = self.denoiser.call, self.denoiser.parametrisation
        call.pixel_time = time
        call.timestep_table = parametrisation.timestep(time.sigma_table)
        call.reading = time.uniform  # a run reads its masks at one level, or nearly
        level = time.sigma_table[-1].expand(len(x))
        return self.denoiser(
            x,
            level,
            cond=self.condition,
            uncond=self.condition,
            cond_scale=1,
            network_arguments=self.arguments,
        )

    def masks(self) -> Tensor | None:
        return None if self.capture is None else union_of(self.capture.read(), self.threshold)


def union_of(maps: Tensor, threshold: float = 1.0) -> Tensor:
    """bool [B, gh, gw]: where any object's attention [B, O, gh, gw] is above the threshold."""
    return binary_masks(maps, threshold).any(1)
