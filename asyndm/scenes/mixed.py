"""The positive control: the embedded model, fine-tuned with a timestep of its own for every pixel.

AsynDM shows a network inputs it never saw in training: two noise levels side by side. Where the
method gains nothing, is it because of that, or because there is nothing to gain? Fine-tuning the
same network on mixed noise levels for a few minutes takes the first reason away.

    python -m asyndm.scenes.mixed --folder FOLDER --export WEIGHTS --minutes 5
    python -m asyndm bench scenes --weights WEIGHTS ...
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from tqdm import tqdm

from asyndm.core.rows import Rows
from asyndm.core.run import NetworkCall
from asyndm.core.schedule import PixelTime
from asyndm.network import attach

from .checker import object_cells
from .model import LATENT_SIZE, PATCH, WEIGHTS, SceneModel, training_alphas
from .train import drop_prompts, encode_corpus, load_corpus

_PICTURES = 16_000  # more than a few minutes can see


def mixed_timesteps(objects: Tensor, steps: int, generator: torch.Generator) -> tuple[Tensor, ...]:
    """A background and an object timestep for each image, and the mask between them.

    As a run of random curvature would have them: background at t = T (1 - u), objects at
    t (1 + E) with an exposure E within [0, u]. Half of the masks are the true objects', the others
    random patches, since a run's masks are seldom exact; a quarter of the images have no mask.

    Args:
        objects: bool [B, 16, 16], where the objects are.

    Returns:
        (timesteps [B, 2] float: background, objects; mask bool [B, 16, 16]).
    """
    batch = len(objects)
    passed = torch.rand(batch, generator=generator)
    exposure = passed * torch.rand(batch, generator=generator)
    background = (steps - 1) * (1 - passed)
    timesteps = torch.stack([background, background * (1 + exposure)], 1).clamp(max=steps - 1)
    rough = torch.randn(batch, 1, 5, 5, generator=generator)
    rough = F.interpolate(rough, objects.shape[-2:], mode="bilinear", align_corners=True)[:, 0]
    chance = torch.rand(batch, generator=generator)[:, None, None]
    mask = torch.where(chance < 0.5, objects, rough > 0.3) & (chance < 0.75)
    return timesteps, mask


def fine_tune(
    model: SceneModel,
    latents: Tensor,
    tokens: Tensor,
    objects: Tensor,
    minutes: float,
    batch: int = 64,
    seed: int = 0,
) -> int:
    """v-prediction at mixed noise levels; returns the number of steps.

    Args:
        latents: [N, 10, 16, 16] of clean pictures.
        tokens: [N, MAX_TOKENS] of their captions.
        objects: bool [N, 16, 16].
    """
    generator = torch.Generator().manual_seed(seed)
    alphas = training_alphas()
    log_alphas = alphas.log()
    parts = nn.ModuleList([model.text, model.unet]).requires_grad_(True)
    optimizer = torch.optim.AdamW(parts.parameters(), lr=2e-4, betas=(0.9, 0.98))
    call, steps, start = NetworkCall(), 0, time.monotonic()
    bar = tqdm(desc="fine-tuning", unit="step", mininterval=10)
    with attach(model.unet, call):
        while (done := (time.monotonic() - start) / 60 / minutes) < 1:
            for group in optimizer.param_groups:
                group["lr"] = 2e-4 * (1 - 0.95 * done)
            rows = torch.randint(len(latents), (batch,), generator=generator)
            ids = drop_prompts(tokens[rows], generator)
            clean = latents[rows].float()
            noise = torch.randn(clean.shape, generator=generator)
            timesteps, mask = mixed_timesteps(objects[rows], len(alphas), generator)
            table = timesteps.flatten()
            low = table.floor().long()
            high = (low + 1).clamp(max=len(alphas) - 1)
            alpha = log_alphas[low].lerp(log_alphas[high], table - low).exp()
            index = 2 * torch.arange(batch)[:, None, None] + mask.long()
            call.pixel_time = PixelTime(
                ((1 - alpha) / alpha).sqrt(), index, table, (LATENT_SIZE, LATENT_SIZE)
            )
            call.timestep_table = table
            call.rows = Rows.only_cond(batch)
            signal = alpha.sqrt()[index][:, None]
            sigma = (1 - alpha).sqrt()[index][:, None]
            with torch.autocast("cpu", torch.bfloat16):  # as in the training before
                output = model.unet(
                    signal * clean + sigma * noise,
                    timesteps[:, 0],
                    encoder_hidden_states=model.text(ids),
                ).sample.float()
            loss = (output - (signal * noise - sigma * clean)).square().mean()
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            nn.utils.clip_grad_norm_(parts.parameters(), 1.0)
            optimizer.step()
            steps += 1
            bar.update()
            bar.set_postfix(loss=f"{loss.item():.4f}", refresh=False)
    parts.requires_grad_(False)
    return steps


def true_objects(pictures: np.ndarray) -> Tensor:
    """bool [N, 16, 16]: latent cells of which objects cover a quarter or more."""
    cells = [
        object_cells(chunk, PATCH)
        for chunk in np.array_split(pictures, max(1, len(pictures) // 1000))
    ]
    return torch.from_numpy(np.concatenate(cells))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--folder", type=Path, required=True, help="of asyndm.scenes.train")
    parser.add_argument("--weights", type=Path, default=WEIGHTS, help="to start from")
    parser.add_argument("--export", type=Path, required=True, help="where the result goes")
    parser.add_argument("--scenes", type=int, default=48000)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--minutes", type=float, default=5)
    args = parser.parse_args()
    args.folder.mkdir(parents=True, exist_ok=True)
    corpus = load_corpus(args.folder, args.scenes, args.workers)
    model = SceneModel.load(args.weights)
    latents = encode_corpus(corpus, model.autoencoder, args.folder, torch.device("cpu"))
    tokens = torch.from_numpy(corpus.tokens.astype(np.int64))
    count = min(len(corpus.pictures), _PICTURES)
    objects = true_objects(corpus.pictures[:count])
    steps = fine_tune(model, latents[:count], tokens[:count], objects, args.minutes)
    model.save(args.export)
    print(f"wrote {args.export} after {steps} steps")


if __name__ == "__main__":
    main()
