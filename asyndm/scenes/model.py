"""The embedded text-to-image model: a latent diffusion model of the small world.

Built like Stable Diffusion, only small: an autoencoder (64x64 pixels to 16x16x10 latents), a text
encoder and diffusers' conditional UNet, whose cross-attention at 16x16 gives the object masks.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

import torch
from diffusers import UNet2DConditionModel
from einops import rearrange
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from .text import MAX_TOKENS, VOCABULARY, token_ids
from .world import DEFAULT_WORLD, FIRST_WORLD

WEIGHTS = Path(__file__).parent / "weights.safetensors"
TRAINED = {FIRST_WORLD: WEIGHTS, DEFAULT_WORLD: Path(__file__).parent / "auroras.safetensors"}
LATENT_CHANNELS = 10
LATENT_SIZE = 16
PATCH = 4  # pixels a latent cell, each way
WIDTH = 64  # of the shipped decoder
TEXT_WIDTH = 128


def weights_file(where: Path | str | None) -> Path:
    """A file of weights: of the default world (None), of a world by its name, or any other."""
    where = DEFAULT_WORLD if where is None else where
    return TRAINED.get(str(where), Path(where))


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions around a shortcut."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.GroupNorm(8, width),
            nn.SiLU(),
            nn.Conv2d(width, width, 3, padding=1),
            nn.GroupNorm(8, width),
            nn.SiLU(),
            nn.Conv2d(width, width, 3, padding=1),
        )

    def forward(self, x: Tensor) -> Tensor:
        return x + self.body(x)


class Autoencoder(nn.Module):
    """Pictures [B, 3, 64, 64] in -1 to 1 <-> latents [B, 10, 16, 16] of unit mean variance.

    The encoder is linear and needs no training: the principal components of 4x4 pixel patches,
    the weaker ones raised by half their (logarithmic) lag so that none drowns in noise. The
    decoder adds to the components' inverse what a small network knows of shapes and edges.
    """

    def __init__(self, width: int = WIDTH) -> None:
        super().__init__()
        patch = 3 * PATCH**2
        self.register_buffer("mean", torch.zeros(patch))
        self.register_buffer("basis", torch.zeros(patch, LATENT_CHANNELS))
        self.register_buffer("scale", torch.ones(LATENT_CHANNELS))
        self.refine = nn.Sequential(
            nn.Conv2d(LATENT_CHANNELS, width, 3, padding=1),
            ResidualBlock(width),
            ResidualBlock(width),
            ResidualBlock(width),
            nn.Conv2d(width, width // 4 * PATCH**2, 3, padding=1),
            nn.PixelShuffle(PATCH),
            nn.SiLU(),
            nn.Conv2d(width // 4, 3, 3, padding=1),
        )
        nn.init.zeros_(self.refine[-1].weight)

    @torch.no_grad()
    def fit(self, pixels: Tensor) -> None:
        """Set the linear part from pictures [N, 3, 64, 64]."""
        patches = self._patches(pixels).flatten(0, 2).double()
        mean = patches.mean(0)
        variance, directions = torch.linalg.eigh(torch.cov((patches - mean).T))
        variance, directions = variance.flip(0), directions.flip(1)
        deviation = variance[:LATENT_CHANNELS].sqrt()
        lifted = deviation.sqrt()  # what is left of each component's size
        self.mean.copy_(mean)
        self.basis.copy_(directions[:, :LATENT_CHANNELS])
        self.scale.copy_(deviation / lifted * lifted.square().mean().sqrt())

    def encode(self, pixels: Tensor) -> Tensor:
        latents = (self._patches(pixels) - self.mean) @ self.basis / self.scale
        return rearrange(latents, "b h w c -> b c h w")

    def decode(self, latents: Tensor) -> Tensor:
        return self.decode_linear(latents) + self.refine(latents)

    def decode_linear(self, latents: Tensor) -> Tensor:
        """The picture the principal components alone hold."""
        patches = (rearrange(latents, "b c h w -> b h w c") * self.scale) @ self.basis.T + self.mean
        return nn.functional.pixel_shuffle(rearrange(patches, "b h w c -> b c h w"), PATCH)

    @staticmethod
    def _patches(pixels: Tensor) -> Tensor:
        """[B, 3, 64, 64] -> [B, 16, 16, 48]."""
        return rearrange(nn.functional.pixel_unshuffle(pixels, PATCH), "b c h w -> b h w c")


class TextEncoder(nn.Module):
    """Token ids [B, MAX_TOKENS] -> context [B, MAX_TOKENS, TEXT_WIDTH] for the cross-attention."""

    def __init__(self, layers: int = 2) -> None:
        super().__init__()
        self.token = nn.Embedding(len(VOCABULARY), TEXT_WIDTH)
        self.position = nn.Parameter(torch.randn(MAX_TOKENS, TEXT_WIDTH) * 0.02)
        block = nn.TransformerEncoderLayer(
            TEXT_WIDTH,
            4,
            3 * TEXT_WIDTH,
            dropout=0.0,
            activation="gelu",
            batch_first=True,
            norm_first=True,
        )
        self.blocks = nn.TransformerEncoder(block, layers, enable_nested_tensor=False)
        self.norm = nn.LayerNorm(TEXT_WIDTH)

    def forward(self, ids: Tensor) -> Tensor:
        return self.norm(self.blocks(self.token(ids) + self.position))


def make_unet() -> UNet2DConditionModel:
    """diffusers' conditional UNet for 16x16 latents, cross-attention at 16x16 and 8x8."""
    return UNet2DConditionModel(
        sample_size=LATENT_SIZE,
        in_channels=LATENT_CHANNELS,
        out_channels=LATENT_CHANNELS,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D"),
        block_out_channels=(48, 96),
        layers_per_block=1,
        cross_attention_dim=TEXT_WIDTH,
        attention_head_dim=3,  # diffusers' name for the number of heads
        norm_num_groups=16,
    )


class SceneModel(nn.Module):
    """Autoencoder, text encoder and UNet together. The UNet predicts v (velocity).

    Args:
        width: of the decoder.
        world: of the scenes it was trained on.

    Attributes:
        digest: the first letters of the sha256 of its file; "" = it was not read from one.
    """

    def __init__(self, width: int = WIDTH, world: str = FIRST_WORLD) -> None:
        super().__init__()
        self.world = world
        self.digest = ""
        self.autoencoder = Autoencoder(width)
        self.text = TextEncoder()
        self.unet = make_unet()

    def encode_tokens(self, prompts: list[list[str]]) -> Tensor:
        """Context [B, MAX_TOKENS, TEXT_WIDTH] of tokenised prompts."""
        device = self.text.position.device
        return self.text(torch.tensor([token_ids(tokens) for tokens in prompts], device=device))

    def decode_pixels(self, latents: Tensor) -> Tensor:
        """Latents [B, 10, 16, 16] -> uint8 pictures [B, 64, 64, 3] on the CPU."""
        pixels = self.autoencoder.decode(latents).clamp(-1, 1)
        return rearrange(((pixels + 1) * 127.5).round().to(torch.uint8), "b c h w -> b h w c").cpu()

    def save(self, path: Path = WEIGHTS, autoencoder: bool = True) -> None:
        """Write the weights in half precision.

        Args:
            autoencoder: False = the file is read with the first world's, so it lacks its own.
        """
        tensors = {
            name: value.half().contiguous() if value.is_floating_point() else value
            for name, value in self.state_dict().items()
            if autoencoder or not name.startswith("autoencoder.")
        }
        save_file(tensors, str(path), {"world": self.world})

    @classmethod
    def load(cls, path: Path | str | None = None) -> SceneModel:
        """The trained model in float32, ready to sample.

        Args:
            path: as :func:`weights_file` takes it.

        Raises:
            FileNotFoundError: there are no weights at ``path``.
        """
        path = weights_file(path)
        if not path.exists():
            raise FileNotFoundError(f"weights: {path} is missing; reinstall or train it.")
        tensors = load_file(str(path))
        with safe_open(str(path), "pt") as file:
            world = (file.metadata() or {}).get("world", FIRST_WORLD)
        if not any(name.startswith("autoencoder.") for name in tensors):
            shipped = load_file(str(WEIGHTS))
            tensors |= {n: v for n, v in shipped.items() if n.startswith("autoencoder.")}
        decoder = tensors.get("autoencoder.refine.0.bias")
        model = cls(WIDTH if decoder is None else len(decoder), world)
        model.load_state_dict(
            {n: v.float() if v.is_floating_point() else v for n, v in tensors.items()}
        )
        model.digest = hashlib.sha256(path.read_bytes()).hexdigest()[:16]
        return model.eval().requires_grad_(False)


def training_alphas(steps: int = 1000) -> Tensor:
    """Stable Diffusion's noise schedule: cumulative alphas [steps] of the scaled-linear betas."""
    betas = torch.linspace(0.00085**0.5, 0.012**0.5, steps, dtype=torch.float64) ** 2
    return torch.cumprod(1 - betas, 0).float()
