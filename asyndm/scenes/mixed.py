"""The positive control: the embedded model, fine-tuned with a timestep of its own for every pixel.

AsynDM shows a network inputs it never saw in training: two noise levels side by side. Where the
method gains nothing, is it because of that, or because there is nothing to gain? Fine-tuning the
same network on mixed noise levels for a few minutes takes the first reason away.

    python -m asyndm.scenes.mixed --folder FOLDER --export WEIGHTS --minutes 5 (or --steps N)
    python -m asyndm bench scenes --weights WEIGHTS ...

``--timesteps patches`` draws them as Patch Forcing does (arXiv 2604.19141), a timestep a patch, so
that extreme disparities are seen too; ``--norms levelled`` trains with levelled norms in place.
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
from asyndm.core.settings import NORMS, Settings
from asyndm.network import attach
from asyndm.network.norms import LevelledNorms

from . import chosen
from .checker import object_cells
from .model import LATENT_SIZE, PATCH, SceneModel, training_alphas
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
    batch, draw = len(objects), {"generator": generator, "device": objects.device}
    passed = torch.rand(batch, **draw)
    exposure = passed * torch.rand(batch, **draw)
    background = (steps - 1) * (1 - passed)
    timesteps = torch.stack([background, background * (1 + exposure)], 1).clamp(max=steps - 1)
    rough = torch.randn(batch, 1, 5, 5, **draw)
    rough = F.interpolate(rough, objects.shape[-2:], mode="bilinear", align_corners=True)[:, 0]
    chance = torch.rand(batch, **draw)[:, None, None]
    mask = torch.where(chance < 0.5, objects, rough > 0.3) & (chance < 0.75)
    return timesteps, mask


def patch_timesteps(objects: Tensor, steps: int, generator: torch.Generator) -> tuple[Tensor, ...]:
    """A timestep for every patch of 2x2 cells, by Patch Forcing's sampler (arXiv 2604.19141).

    Logit-normal truncated Gaussian, in their time u (0 = noise, 1 = clean) with t = (T - 1)(1 - u):
    the clearest patch's u has a logit of normal distribution (0.7, 1), the others lie below it by
    half a normal distribution of standard deviation min(u / 2, 0.6), and those that would be
    noisier than noise uniformly between noise and the clearest.

    Args:
        objects: bool [B, 16, 16]; only their shape is read.

    Returns:
        (timesteps [B, 64] float; index long [B, 16, 16], the patch of every cell).
    """
    batch, height, width = objects.shape
    draw = {"generator": generator, "device": objects.device}
    clearest = torch.sigmoid(0.7 + torch.randn(batch, 1, **draw))
    patches = torch.arange(height * width // 4, device=objects.device)
    shape = (batch, len(patches))
    spread = (clearest / 2).clamp(max=0.6)
    time = clearest - torch.randn(shape, **draw).abs() * spread
    time = torch.where(time < 0, torch.rand(shape, **draw) * clearest, time)
    index = patches.view(height // 2, width // 2)
    index = index.repeat_interleave(2, 0).repeat_interleave(2, 1)
    return (steps - 1) * (1 - time), index.expand(batch, -1, -1)


SAMPLERS = {"run": mixed_timesteps, "patches": patch_timesteps}


def fine_tune(
    model: SceneModel,
    latents: Tensor,
    tokens: Tensor,
    objects: Tensor,
    minutes: float,
    batch: int = 64,
    seed: int = 0,
    timesteps_of: str = "run",
    norms: LevelledNorms | None = None,
    most: int | None = None,
) -> int:
    """v-prediction at mixed noise levels; returns the number of steps.

    Args:
        latents: [N, 10, 16, 16] of clean pictures.
        tokens: [N, MAX_TOKENS] of their captions.
        objects: bool [N, 16, 16].
        timesteps_of: of :data:`SAMPLERS`.
        norms: in place during the training.
        most: so many steps instead of so many minutes.
    """
    device = model.text.position.device
    generator, draw = torch.Generator(device).manual_seed(seed), SAMPLERS[timesteps_of]
    alphas = training_alphas().to(device)
    latents, tokens, objects = (data.to(device) for data in (latents, tokens, objects))
    which = {"generator": generator, "device": device}
    log_alphas = alphas.log()
    parts = nn.ModuleList([model.text, model.unet]).requires_grad_(True)
    optimizer = torch.optim.AdamW(parts.parameters(), lr=2e-4, betas=(0.9, 0.98))
    call, steps, start = NetworkCall(), 0, time.monotonic()
    bar = tqdm(desc="fine-tuning", unit="step", mininterval=10)
    with attach(model.unet, call, norms=norms):
        while (done := steps / most if most else (time.monotonic() - start) / 60 / minutes) < 1:
            for group in optimizer.param_groups:
                group["lr"] = 2e-4 * (1 - 0.95 * done)
            rows = torch.randint(len(latents), (batch,), **which)
            ids = drop_prompts(tokens[rows], generator)
            clean = latents[rows].float()
            noise = torch.randn(clean.shape, **which)
            timesteps, place = draw(objects[rows], len(alphas), generator)
            table = timesteps.flatten()
            low = table.floor().long()
            high = (low + 1).clamp(max=len(alphas) - 1)
            alpha = log_alphas[low].lerp(log_alphas[high], table - low).exp()
            first = timesteps.shape[1] * torch.arange(batch, device=device)
            index = first[:, None, None] + place.long()
            call.pixel_time = PixelTime(
                ((1 - alpha) / alpha).sqrt(), index, table, (LATENT_SIZE, LATENT_SIZE)
            )
            call.timestep_table = table
            call.rows = Rows.only_cond(batch, device=device)
            signal = alpha.sqrt()[index][:, None]
            sigma = (1 - alpha).sqrt()[index][:, None]
            with torch.autocast(device.type, torch.bfloat16):  # as in the training before
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
            if steps % 20 == 0:
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
    chosen.add_arguments(parser)  # to start from
    parser.add_argument("--export", type=Path, required=True, help="where the result goes")
    parser.add_argument("--scenes", type=int, default=48000)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--minutes", type=float, default=5)
    parser.add_argument("--steps", type=int, help="instead of --minutes")
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--timesteps", choices=SAMPLERS, default="run")
    parser.add_argument("--norms", choices=NORMS, default=NORMS[0])
    parser.add_argument("--device", default="cpu")
    args = parser.parse_args()
    args.folder.mkdir(parents=True, exist_ok=True)
    pipeline = chosen.open_chosen(args).to(args.device)
    corpus = load_corpus(args.folder, args.scenes, args.workers, pipeline.world)
    model = pipeline.model
    latents = encode_corpus(corpus, model.autoencoder, args.folder, pipeline.device)
    tokens = torch.from_numpy(corpus.tokens.astype(np.int64))
    count = min(len(corpus.pictures), _PICTURES)
    objects = true_objects(corpus.pictures[:count])
    steps = fine_tune(
        model,
        latents[:count],
        tokens[:count],
        objects,
        args.minutes,
        args.batch,
        timesteps_of=args.timesteps,
        norms=pipeline.norms_of(Settings(norms=args.norms)),
        most=args.steps,
    )
    model.cpu().save(args.export)
    print(f"wrote {args.export} after {steps} steps")


if __name__ == "__main__":
    main()
