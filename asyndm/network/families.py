"""Which family a network belongs to, by its structure alone."""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import TYPE_CHECKING

from torch import nn

from asyndm.core.run import NetworkCall
from asyndm.network.anima import AnimaHooks
from asyndm.network.capture import AttentionCapture
from asyndm.network.diffusers_dit import FluxHooks as DiffusersFluxHooks
from asyndm.network.diffusers_dit import Sd3Hooks
from asyndm.network.diffusers_unet import DiffusersHooks
from asyndm.network.dit import TransformerHooks
from asyndm.network.ernie import ErnieHooks
from asyndm.network.errors import UnsupportedNetwork
from asyndm.network.flux import ChromaHooks, Flux2Hooks, FluxHooks
from asyndm.network.hooks import UNetHooks, check_hookable
from asyndm.network.krea import KreaHooks
from asyndm.network.ldm_unet import LdmHooks
from asyndm.network.lumina import LuminaHooks
from asyndm.network.mmdit import MmditHooks
from asyndm.network.qwen import QwenHooks
from asyndm.network.wan import WanHooks

if TYPE_CHECKING:
    from asyndm.network.norms import LevelledNorms

FAMILIES: tuple[type[UNetHooks], ...] = (
    *(LdmHooks, DiffusersHooks, MmditHooks, FluxHooks, ChromaHooks),
    *(Sd3Hooks, DiffusersFluxHooks, Flux2Hooks, LuminaHooks, QwenHooks),
    *(AnimaHooks, WanHooks, KreaHooks, ErnieHooks),
)


def attach(
    unet: nn.Module,
    call: NetworkCall,
    capture: AttentionCapture | None = None,
    norms: LevelledNorms | None = None,
) -> AbstractContextManager[None]:
    """Per-pixel timesteps, and attention capture, in any network AsynDM knows.

    Refuses at once, not on entering the `with` block, so that a host can fall back to a
    synchronous image before anything is touched.

    Args:
        unet: the network: a U-Net or transformer of a family this package has a file for.
        call: the channel to the sampling run. While its ``pixel_time`` is None the network's
            output is untouched.
        capture: records cross-attention, also while ``pixel_time`` is None.
        norms: levels the group norms; None = they stay the host's.

    Raises:
        UnsupportedNetwork: no family knows it, it is compiled, or it cannot be steered by hooks.
    """
    return family_of(unet)(unet, call, capture, norms).attached()  # looks for compiled parts, too


def patch_of(unet: nn.Module) -> int:
    """The side of the squares of latents that a network makes one token of, 1 for a U-Net.

    Raises:
        UnsupportedNetwork: as :func:`attach`.
    """
    return family_of(unet)(unet, NetworkCall()).patch


def is_transformer(unet: nn.Module) -> bool:
    """Whether a network is one of the transformers AsynDM knows."""
    return any(f.matches(unet) for f in FAMILIES if issubclass(f, TransformerHooks))


def tells_text(unet: nn.Module) -> bool:
    """Whether a network tells its text tokens the time, which ``text_timestep`` changes.

    Raises:
        UnsupportedNetwork: as :func:`attach`.
    """
    return getattr(family_of(unet), "tells_text", False)


def family_of(unet: nn.Module) -> type[UNetHooks]:
    """The hooks that know this network.

    Raises:
        UnsupportedNetwork: none do, or it is compiled.
    """
    for family in FAMILIES:
        if family.matches(unet):
            return family
    check_hookable(unet)
    raise UnsupportedNetwork(
        f"AsynDM does not know this network ({type(unet).__name__}): it knows the U-Nets of "
        "Stable Diffusion 1, 2 and XL, and the transformers of Stable Diffusion 3 and 3.5, Flux, "
        "Chroma, Lumina 2, Z-Image, Qwen-Image, Anima, Krea 2, Wan and Ernie-Image."
    )
