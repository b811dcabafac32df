"""Checkpoints of diffusers, as AsynDM sees them: network, noise levels, words, latents.

One loader for all that works on such a checkpoint (``bench context``; :func:`asyndm.steer` takes a
:class:`Checkpoint`, too).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from asyndm.core.masks import MapAverage
from asyndm.core.rows import Rows
from asyndm.core.run import NetworkCall
from asyndm.core.settings import SettingsError
from asyndm.network import AttentionCapture, UnsupportedNetwork, attach
from asyndm.pipelines import single_file
from asyndm.pipelines.prompts import PipelineWords, tokens_of
from asyndm.pipelines.schedulers import parametrisation_of

FILES = (".safetensors", ".ckpt", ".pt")  # what is no name on the hub
# Of models without signal at the last timestep: what WebUIs take there instead of 0.
_LEAST_ALPHA = 4.8973451890853435e-08


class Checkpoint:
    """A text-to-image pipeline of the families of Stable Diffusion 1, 2 and XL.

    Args:
        pipe: diffusers' ``StableDiffusionPipeline`` or ``StableDiffusionXLPipeline``.

    Attributes:
        unet: its network.
        parametrisation: what that predicts.
        factor: pixels a latent cell, each way.

    Raises:
        UnsupportedNetwork: a pipeline that cannot be steered, in one line.
    """

    def __init__(self, pipe: Any) -> None:
        self.pipe, self.unet = pipe, getattr(pipe, "unet", None)
        name = type(pipe).__name__
        if self.unet is None or not hasattr(pipe, "encode_prompt"):
            raise UnsupportedNetwork(f"AsynDM does not know {name}: it has no U-Net and prompt.")
        self.parametrisation = parametrisation_of(pipe.scheduler, _LEAST_ALPHA)
        if self.unet.config.in_channels != pipe.vae.config.latent_channels:
            raise UnsupportedNetwork(
                f"The network takes {self.unet.config.in_channels} channels for latents of "
                f"{pipe.vae.config.latent_channels}: AsynDM steers text-to-image models."
            )
        attach(self.unet, NetworkCall())  # refuses what cannot be hooked, touches nothing
        self.factor = 2 ** (len(pipe.vae.config.block_out_channels) - 1)

    @classmethod
    def load(
        cls, path: str | Path, device: str = "cpu", dtype: torch.dtype = torch.float32
    ) -> Checkpoint:
        """From a folder in diffusers' layout, one file of a WebUI, or a name on the hub.

        Args:
            path: of it.
            device: where the pipeline runs.
            dtype: of its weights; the autoencoder's are in float32, which SDXL's needs.

        Raises:
            SettingsError: nothing that can be loaded.
            UnsupportedNetwork: as the class.
        """
        pipe = load_pipeline(path, device, dtype)
        pipe.vae.to(torch.float32)
        return cls(pipe)

    @property
    def device(self) -> torch.device:
        return next(self.unet.parameters()).device

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) in pixels the model was trained at."""
        return size_of(self.pipe)

    def tokens(self, prompt: str) -> list[str]:
        """The pieces of a prompt as the text encoder sees them, start and end included."""
        return tokens_of(self.pipe, prompt)

    def capture(self, prompts: Sequence[str], expression: str = "") -> AttentionCapture | None:
        """Reads the attention of each prompt's objects; None where no prompt has any.

        Args:
            prompts: [B].
            expression: the object words, "" = found in each prompt.

        Raises:
            SettingsError: an expression that cannot be read.
        """
        return PipelineWords(self.pipe, prompts, expression).capture()

    @torch.no_grad()
    def conditions(
        self, prompts: Sequence[str], size: tuple[int, int] | None = None
    ) -> tuple[Tensor, dict[str, Any]]:
        """What the network is told of prompts, without guidance.

        Args:
            prompts: [B].
            size: (height, width) of the pictures, which SDXL is told; default: :attr:`size`.

        Returns:
            (contexts [B, tokens, width], the network's further arguments).
        """
        made = self.pipe.encode_prompt(
            prompt=list(prompts),
            device=self.device,
            num_images_per_prompt=1,
            do_classifier_free_guidance=False,
        )
        context, more = made[0], {}
        if len(made) == 4:  # SDXL: pooled text, and the sizes it was trained to be told
            height, width = size or self.size
            told = torch.tensor([height, width, 0, 0, height, width], dtype=context.dtype)
            more["added_cond_kwargs"] = {
                "text_embeds": made[2],
                "time_ids": told.expand(len(prompts), -1).to(self.device),
            }
        return context, more

    @torch.no_grad()
    def encode(self, pictures: np.ndarray) -> Tensor:
        """uint8 [N, H, W, 3] -> latents [N, C, h, w] in the network's scale, on the CPU."""
        vae = self.pipe.vae
        latents = []
        for picture in pictures:
            pixels = torch.from_numpy(np.ascontiguousarray(picture)).to(self.device)
            pixels = pixels.permute(2, 0, 1)[None].float() / 127.5 - 1
            latents.append(vae.encode(pixels).latent_dist.mode() * vae.config.scaling_factor)
        return torch.cat(latents).cpu()

    @torch.no_grad()
    def make(
        self,
        prompts: Sequence[str],
        seeds: Sequence[int],
        steps: int = 25,
        cfg: float = 7.5,
        size: tuple[int, int] | None = None,
        expression: str = "",
        report: Callable[[int], None] | None = None,
    ) -> tuple[Tensor, Tensor]:
        """The pipeline's own pictures, and the attention of their objects over the whole run.

        Args:
            prompts, seeds: [B].
            steps, cfg: of the pipeline's own sampler.
            size: (height, width) in pixels.
            expression: the object words.
            report: called after each step with its number.

        Returns:
            (latents [B, C, h, w] in the network's scale, maps [B, O, gh, gw]), on the CPU.

        Raises:
            SettingsError: no prompt has an object.
        """
        capture = self.capture(prompts, expression)
        if capture is None:
            raise SettingsError(
                f"objects: no object word is in {prompts[0]!r}; name some, or other prompts."
            )
        height, width = size or self.size
        rows = Rows.uncond_then_cond if cfg > 1 else Rows.only_cond
        call = NetworkCall(rows=rows(len(prompts), device=self.device))
        average = MapAverage()

        def after_step(pipe: Any, step: int, timestep: Any, values: dict) -> dict:
            average.add(capture.read())
            if report is not None:
                report(step)
            return values

        with attach(self.unet, call, capture):
            latents = self.pipe(
                prompt=list(prompts),
                generator=[torch.Generator().manual_seed(int(seed)) for seed in seeds],
                num_inference_steps=steps,
                guidance_scale=cfg,
                height=height,
                width=width,
                output_type="latent",
                callback_on_step_end=after_step,
            ).images
        return latents.float().cpu(), average.read().float().cpu()


def load_pipeline(
    path: str | Path,
    device: str = "cpu",
    dtype: torch.dtype = torch.float32,
    config: str | Path | None = None,
) -> Any:
    """diffusers' text-to-image pipeline of a folder in its layout, a WebUI's file, or a hub's name.

    Args:
        path: of it.
        device: where it runs.
        dtype: of its weights.
        config: of a file, see :mod:`asyndm.pipelines.single_file`.

    Raises:
        SettingsError: nothing that can be loaded.
    """
    try:
        from diffusers import AutoPipelineForText2Image

        if not Path(path).exists() and (Path(path).is_absolute() or Path(path).suffix in FILES):
            raise FileNotFoundError("there is no such file or folder")
        if Path(path).is_file():
            pipe = single_file.load(Path(path), config, dtype)
        else:
            pipe = AutoPipelineForText2Image.from_pretrained(
                str(path), torch_dtype=dtype, local_files_only=Path(path).exists()
            )
    except (ModuleNotFoundError, SettingsError):
        raise
    except Exception as error:  # of many libraries' own kinds: files, hub, weights
        lines = str(error).splitlines() or [type(error).__name__]
        raise SettingsError(
            f"checkpoint: {path} cannot be loaded ({lines[0]:.120}); name a folder in "
            "diffusers' layout, or a file of Stable Diffusion."
        ) from error
    if getattr(pipe, "safety_checker", None) is not None:
        pipe.safety_checker = None  # it blackens pictures; here nobody is shown any
    pipe.set_progress_bar_config(disable=True)
    if getattr(pipe, "transformer", None) is not None:
        pipe.transformer.to(dtype)  # diffusers 0.39 leaves parts of Stable Diffusion 3's in float32
    return pipe.to(device)


def size_of(pipe: Any) -> tuple[int, int]:
    """(height, width) in pixels a pipeline's model was trained at."""
    if getattr(pipe, "unet", None) is None:
        side, factor = pipe.default_sample_size, pipe.vae_scale_factor
    else:
        side = pipe.unet.config.sample_size
        factor = 2 ** (len(pipe.vae.config.block_out_channels) - 1)
    height, width = side if isinstance(side, (list, tuple)) else (side, side)
    return height * factor, width * factor
