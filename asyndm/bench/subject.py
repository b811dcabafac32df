"""What the overhead is measured on: a U-Net of real size, halfway through a sampling run."""

from __future__ import annotations

import importlib
import math
import types
from contextlib import AbstractContextManager, nullcontext
from functools import cached_property

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from asyndm.bench.naive import attach_naive
from asyndm.core.masks import CallableMasks, DynamicMasks
from asyndm.core.parametrisation import EpsParametrisation
from asyndm.core.rows import Rows
from asyndm.core.run import Director, NetworkCall
from asyndm.core.schedule import Size
from asyndm.network import AttentionCapture, attach
from asyndm.network.calibrate import TIMESTEPS
from asyndm.network.norm_table import NormTable, norms_of
from asyndm.network.norms import LevelledNorms

METHODS = ("synchronous", "asyndm", "naive")
LEVELLED = "levelled"  # asyndm with levelled norms
STEPS = 50  # of the run
MIDDLE = 25  # the step the measuring starts at
LAST = 45  # the step it starts over at
TOKENS = 77
WORDS = [[5], [9, 10]]  # token positions of two objects
CURVATURE = 0.5


class Subject:
    """One U-Net and the state of a run with classifier-free guidance in its middle.

    The clocks were moved there by the real director through random masks, so the table has as many
    rows as it has in step 25 of 50.

    Args:
        size: (H, W) of the latents.
        tiny: a narrow network, to try the benchmark itself.
        device: where torch runs it, in half precision on a GPU as hosts do; "meta" counts
            operations without doing any.
        shape: "sd15", or "sdxl": its blocks, and vectors of text and size beside the timestep.
    """

    def __init__(
        self, size: Size, tiny: bool = False, device: str = "cpu", shape: str = "sd15"
    ) -> None:
        self.size, self.device = size, torch.device(device)
        self.more: dict[str, dict[str, Tensor]] = {}  # what the network takes besides
        if shape == "sdxl":
            self.library, self.unet, width = build_sdxl(self.device)
            added = {"text_embeds": (2, 1280), "time_ids": (2, 6)}
            self.more["added_cond_kwargs"] = {
                name: torch.ones(sizes, device=self.device) for name, sizes in added.items()
            }
        else:
            self.library, self.unet, width = build_unet(tiny, self.device)
        self.dtype = torch.float16 if self.device.type == "cuda" else torch.float32
        self.unet.to(self.dtype)
        if "dtype" in vars(self.unet):  # ldm's casts its input to this
            self.unet.dtype = self.dtype
        generator = torch.Generator().manual_seed(0)
        self.x = torch.randn(1, 4, *size, generator=generator).to(self.device)
        self.context = torch.randn(2, TOKENS, width, generator=generator)
        self.context = self.context.to(self.device, self.dtype)
        self.capture = AttentionCapture([[WORDS]])
        betas = torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64) ** 2
        self.parametrisation = EpsParametrisation((1 - betas).cumprod(0))
        at = self.parametrisation.sigma(torch.linspace(999, 0, STEPS, dtype=torch.float64))
        self.sigmas = torch.cat([at, torch.zeros(1)]).float()
        self.rows = Rows.cond_then_uncond(1, device=self.device)
        with attach(self.unet, NetworkCall(), self.capture):
            self.capture.settle(size)
        self.restart()

    @cached_property
    def norms(self) -> LevelledNorms:
        """Levelled norms by a table of random numbers: what they cost is any table's."""
        layers = [(name, norm.num_groups) for name, norm in norms_of(self.unet).items()]
        shape = (2, len(TIMESTEPS), sum(groups for _, groups in layers))
        generator = torch.Generator().manual_seed(2)
        mean = torch.randn(shape, generator=generator)
        var = 0.5 + torch.rand(shape, generator=generator)
        table = NormTable.of(layers, torch.tensor(TIMESTEPS, dtype=torch.float32), mean, var)
        return LevelledNorms(table)

    def restart(self) -> None:
        """Back to the middle of the run."""
        curvatures = (CURVATURE,) * len(WORDS)
        generator = torch.Generator().manual_seed(1)
        grid = self.capture.grid

        def random_masks(i: int, denoised: Tensor | None) -> Tensor:
            shares = torch.rand(1, len(WORDS), *grid, generator=generator)
            return (shares > 0.7).to(self.device)

        masks = DynamicMasks(self.capture, curvatures)
        self.director = Director(self.parametrisation, masks)
        self.director.begin(self.x, self.sigmas)
        self.director.source = CallableMasks(random_masks, curvatures)
        for step in range(MIDDLE):
            self.director.advance(step, self.x)
        self.director.source = masks
        self.i = MIDDLE

    @property
    def timesteps(self) -> int:
        """Different timesteps in the network call to come."""
        return len(self.director.call.pixel_time.sigma_table)

    def attached(self, method: str) -> AbstractContextManager[None]:
        """The method's hooks are in the network inside this block; none for the synchronous one."""
        if method == "synchronous":
            return nullcontext()
        if method == LEVELLED:
            return attach(self.unet, self.director.call, self.capture, self.norms)
        attach_method = attach if method == "asyndm" else attach_naive
        return attach_method(self.unet, self.director.call, self.capture)

    @torch.no_grad()
    def step(self, method: str) -> Tensor:
        """One network call and all the method does around it; returns D, [1, 4, H, W].

        AsynDM and the naive way read the masks and move the clocks, too. To be called inside
        :meth:`attached`, which a host enters once in a run and not in every step.
        """
        call, scalar = self.director.call, self.sigmas[self.i : self.i + 1].to(self.device)
        sigma = scalar.view(1, 1, 1, 1)
        if method != "synchronous":
            sigma = call.pixel_time.sigma_map()
            call.rows = self.rows
        denoised = self.denoise(self.x, sigma, scalar)
        if method != "synchronous":
            self.director.advance(self.i, denoised)
            self.i += 1
        return denoised

    def denoise(self, x: Tensor, sigma: Tensor, scalar: Tensor) -> Tensor:
        """D with guidance at ``sigma``, a map or one number; ``scalar`` [1]: the host's."""
        scaled = (x * self.parametrisation.c_in(sigma)).expand(2, -1, -1, -1)
        t = self.parametrisation.timestep(scalar).float().expand(2)
        cond, uncond = self._network(scaled, t).chunk(2)
        eps = uncond + 7.5 * (cond - uncond)
        return self.parametrisation.denoised(x, eps, sigma)

    def settle(self) -> None:
        """Between measurements: start over before the run is over."""
        if self.i >= LAST:
            self.restart()

    def _network(self, x: Tensor, t: Tensor) -> Tensor:
        output = self.unet(x.to(self.dtype), t, self.context, **self.more)
        return (output if isinstance(output, Tensor) else output.sample).to(x.dtype)

    def wait(self) -> None:
        """Until the device has done what it was asked for: a GPU works behind the program."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)


def device_name(device: str) -> str:
    """For the figures: the GPU's own name, else the kind of device."""
    kind = torch.device(device).type
    return torch.cuda.get_device_name(device) if kind == "cuda" else kind


def build_unet(tiny: bool, device: torch.device) -> tuple[str, nn.Module, int]:
    """(library, U-Net in the shape of Stable Diffusion 1.5, width of its context).

    ldm's where it is installed, with its hosts' default attention kernel; else diffusers'.

    Raises:
        ImportError: neither is installed.
    """
    channels, width = (64, 64) if tiny else (320, 768)
    try:
        module = importlib.import_module("ldm.modules.diffusionmodules.openaimodel")
    except ImportError:
        return "diffusers", fill(_diffusers_unet(channels, width), device), width
    with torch.device("meta"):
        unet = module.UNetModel(
            image_size=32,
            in_channels=4,
            out_channels=4,
            model_channels=channels,
            num_res_blocks=2,
            attention_resolutions=[4, 2, 1],
            channel_mult=[1, 2, 4, 4],
            num_heads=8,
            use_spatial_transformer=True,
            transformer_depth=1,
            context_dim=width,
            use_checkpoint=False,
            legacy=False,
        )
    for attention in unet.modules():
        if hasattr(attention, "to_q"):
            attention.forward = types.MethodType(_attend, attention)
    return "ldm", fill(unet, device), width


def _diffusers_unet(channels: int, width: int) -> nn.Module:
    try:
        from diffusers import UNet2DConditionModel
    except ImportError as error:
        raise ImportError(
            "The overhead is measured on a U-Net of ldm or diffusers: pip install diffusers."
        ) from error
    with torch.device("meta"):
        return UNet2DConditionModel(
            block_out_channels=(channels, 2 * channels, 4 * channels, 4 * channels),
            cross_attention_dim=width,
            attention_head_dim=8,
        )


def build_sdxl(device: torch.device) -> tuple[str, nn.Module, int]:
    """The same in the shape of SDXL, which ldm's U-Net has no depths for: diffusers'.

    Raises:
        ImportError: it is not installed.
    """
    from diffusers import UNet2DConditionModel

    with torch.device("meta"):
        unet = UNet2DConditionModel(
            block_out_channels=(320, 640, 1280),
            down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
            up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
            transformer_layers_per_block=(1, 2, 10),
            attention_head_dim=(5, 10, 20),
            cross_attention_dim=2048,
            use_linear_projection=True,
            addition_embed_type="text_time",
            addition_time_embed_dim=256,
            projection_class_embeddings_input_dim=2816,
        )
    return "diffusers", fill(unet, device), 2048


def _attend(attention: nn.Module, x: Tensor, context: Tensor | None = None, mask=None) -> Tensor:
    """ldm's CrossAttention with torch's kernel, which does not keep [heads, pixels, pixels]."""
    context = x if context is None else context
    projected = (attention.to_q(x), attention.to_k(context), attention.to_v(context))
    q, k, v = (part.unflatten(-1, (attention.heads, -1)).transpose(1, 2) for part in projected)
    out = F.scaled_dot_product_attention(q, k, v)
    return attention.to_out(out.transpose(1, 2).flatten(2))


def fill(unet: nn.Module, device: torch.device) -> nn.Module:
    """Random weights of the usual size; much faster than the library's own initialisation."""
    unet = unet.to_empty(device=device)
    generator = None if device.type == "meta" else torch.Generator(device).manual_seed(0)
    with torch.no_grad():
        for name, parameter in unet.named_parameters():
            if parameter.ndim > 1:
                bound = 1 / math.sqrt(parameter[0].numel())
                parameter.uniform_(-bound, bound, generator=generator)
            else:
                parameter.fill_(1.0 if name.endswith("weight") else 0.0)
    return unet.eval()
