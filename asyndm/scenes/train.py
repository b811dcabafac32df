"""Train the embedded model: ``python -m asyndm.scenes.train --folder FOLDER``.

Stages, each resumable from the folder: draw scenes, fit the encoder and encode them, train UNet
and text encoder, train the decoder. The weights of shadows took 173 minutes on two
CPU cores. ``--export`` writes the averaged weights to the place the package loads them from.

``--world auroras`` draws another world's scenes; with ``--start-from`` and ``--keep-autoencoder`` a
trained model learns them with the autoencoder of shadows, and the exported file lacks it; with
``--keep-encoder`` the decoder alone is its own, ``--decoder-width`` wide. On a GPU,
where minutes are few, ``--snapshots N`` exports the average N times, to choose where to stop.
"""

from __future__ import annotations

import argparse
import copy
import math
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from einops import rearrange
from torch import Tensor, nn
from tqdm import tqdm

from .captured import captured
from .checker import object_mask
from .model import TRAINED, WIDTH, Autoencoder, SceneModel, training_alphas
from .text import COUPLINGS, token_ids, tokenize
from .world import WORLDS, draw, sample_scene, sample_wish

_CHUNK = 1000  # scenes drawn by one worker call
DROP_PROMPT = 0.1  # for classifier-free guidance


@dataclass(frozen=True)
class Corpus:
    """Drawn scenes: pictures uint8 [N, 64, 64, 3] and token ids [N, MAX_TOKENS]."""

    pictures: np.ndarray
    tokens: np.ndarray


def draw_chunk(seed: int, world: str = WORLDS[0]) -> tuple[np.ndarray, np.ndarray]:
    """``_CHUNK`` scenes of a world and their tokens, from one seed."""
    rng = np.random.default_rng([2510, 4504, seed])
    pictures, tokens = [], []
    for _ in range(_CHUNK):
        wish = sample_wish(rng)
        coupling = COUPLINGS[rng.integers(len(COUPLINGS))]
        pictures.append(np.asarray(draw(sample_scene(rng, wish, coupling, world))))
        tokens.append(token_ids(tokenize(wish.prompt(), coupling)))
    return np.stack(pictures), np.array(tokens, np.int16)


def load_corpus(folder: Path, scenes: int, workers: int, world: str = WORLDS[0]) -> Corpus:
    """Draw the training scenes, or read those drawn before."""
    name = "corpus" if world == WORLDS[0] else f"corpus_{world}"
    path = folder / f"{name}_{scenes}.npz"
    if not path.exists():
        seeds = range(math.ceil(scenes / _CHUNK))
        with ProcessPoolExecutor(workers) as pool:
            drawing = pool.map(partial(draw_chunk, world=world), seeds)
            chunks = list(tqdm(drawing, total=len(seeds), desc="drawing"))
        pictures, tokens = (np.concatenate(parts) for parts in zip(*chunks))
        np.savez(path, pictures=pictures, tokens=tokens)
    with np.load(path) as data:
        return Corpus(data["pictures"], data["tokens"])


def to_input(pictures: np.ndarray, device: torch.device) -> Tensor:
    """uint8 [B, 64, 64, 3] -> float [B, 3, 64, 64] in -1 to 1."""
    pixels = torch.from_numpy(np.ascontiguousarray(pictures)).to(device)
    return rearrange(pixels, "b h w c -> b c h w").float() / 127.5 - 1


def fit_encoder(
    corpus: Corpus, folder: Path, device: torch.device, width: int = WIDTH
) -> Autoencoder:
    """The linear encoder, from the first 3,000 pictures; its decoder still untrained."""
    path = folder / "encoder.pt"
    autoencoder = Autoencoder(width)
    if path.exists():
        autoencoder.load_state_dict(torch.load(path, weights_only=True))
    else:
        autoencoder.fit(to_input(corpus.pictures[:3000], torch.device("cpu")))
        torch.save(autoencoder.state_dict(), path)
    return autoencoder.to(device)


def train_decoder(
    autoencoder: Autoencoder,
    corpus: Corpus,
    folder: Path,
    minutes: float,
    device: torch.device,
    object_weight: float = 1.0,
) -> None:
    """Absolute error of pixels and their gradients; noise on the latents makes it robust.

    Args:
        object_weight: of pixels in and next to objects, beside 1 of the others.
    """
    path = folder / "decoder.pt"
    if path.exists():
        autoencoder.load_state_dict(torch.load(path, map_location=device, weights_only=True))
        return
    optimizer = torch.optim.AdamW(autoencoder.refine.parameters(), lr=2e-3, betas=(0.9, 0.98))
    rng = np.random.default_rng(1)
    batch = 128 if device.type == "cuda" else 8
    start = time.monotonic()
    bar = tqdm(desc="decoder", unit="step", mininterval=10)
    while (done := (time.monotonic() - start) / 60 / minutes) < 1:
        for group in optimizer.param_groups:
            group["lr"] = _learning_rate(done, peak=2e-3)
        pictures = corpus.pictures[rng.integers(len(corpus.pictures), size=batch)]
        pixels = to_input(pictures, device)
        weight = torch.ones_like(pixels[:, :1])
        if object_weight != 1:
            seen = torch.from_numpy(object_mask(pictures)).to(device)[:, None].float()
            weight += (object_weight - 1) * nn.functional.max_pool2d(seen, 3, 1, 1)
        latents = autoencoder.encode(pixels)
        output = autoencoder.decode(latents + 0.05 * torch.randn_like(latents))
        loss = (weight * (output - pixels).abs()).mean() + 0.5 * sum(
            (weight.narrow(dim, 1, 63) * (output.diff(dim=dim) - pixels.diff(dim=dim)).abs()).mean()
            for dim in (2, 3)
        )
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(autoencoder.refine.parameters(), 1.0)
        optimizer.step()
        bar.update()
        if bar.n % 50 == 0:
            bar.set_postfix(loss=f"{loss.item():.4f}")
    torch.save(autoencoder.state_dict(), path)


@torch.no_grad()
def encode_corpus(
    corpus: Corpus, autoencoder: Autoencoder, folder: Path, device: torch.device
) -> Tensor:
    """Latents of all pictures, float16 [N, 10, 16, 16]."""
    path = folder / f"latents_{len(corpus.pictures)}.pt"
    if not path.exists():
        latents = [
            autoencoder.encode(to_input(corpus.pictures[start : start + 256], device)).half().cpu()
            for start in tqdm(range(0, len(corpus.pictures), 256), desc="encoding")
        ]
        torch.save(torch.cat(latents), path)
    return torch.load(path, weights_only=True)


def drop_prompts(ids: Tensor, generator: torch.Generator) -> Tensor:
    """Token ids [B, MAX_TOKENS] with some prompts emptied but for the context level."""
    empty = torch.tensor(token_ids(tokenize("")), device=ids.device).repeat(len(ids), 1)
    empty[:, 0] = ids[:, 0]
    dropped = torch.rand(len(ids), generator=generator, device=ids.device) < DROP_PROMPT
    return torch.where(dropped[:, None], empty, ids)


def train_diffusion(
    model: SceneModel,
    corpus: Corpus,
    latents: Tensor,
    folder: Path,
    minutes: float,
    batch: int,
    device: torch.device,
    compiled: bool,
    peak: float = 1e-3,
    snapshot: Callable[[nn.ModuleList, int], None] | None = None,
    snapshots: int = 1,
    graph: bool = False,
) -> SceneModel:
    """v-prediction, uniform timesteps; returns the exponential average of the weights.

    Args:
        snapshot: called ``snapshots - 1`` times on the way with (averaged text encoder and UNet,
            number from 1), at equal times.
        graph: each step is one CUDA graph.
    """
    path = folder / "diffusion.pt"
    parts = nn.ModuleList([model.text, model.unet])
    average = copy.deepcopy(parts).requires_grad_(False)
    optimizer = torch.optim.AdamW(
        parts.parameters(),
        lr=torch.tensor(1e-6, device=device) if graph else 1e-3,
        betas=(0.9, 0.98),
        weight_decay=0.01,
        capturable=graph,
    )
    step, spent = 0, 0.0
    if path.exists():
        state = torch.load(path, map_location=device, weights_only=True)
        parts.load_state_dict(state["parts"])
        average.load_state_dict(state["average"])
        optimizer.load_state_dict(state["optimizer"])
        step, spent = state["step"], state["spent"]
    if device.type == "cpu":
        model.unet.to(memory_format=torch.channels_last)
    unet = torch.compile(model.unet) if compiled else model.unet
    alphas = training_alphas().to(device)
    # A GPU waits for nothing: all data and draws are there.
    tokens = torch.from_numpy(corpus.tokens.astype(np.int64)).to(device)
    latents = latents.to(device)
    generator = torch.Generator(device).manual_seed(4504 + step)
    taken = int(snapshots * spent / 60 / minutes)

    def save() -> None:
        torch.save(
            {
                "parts": parts.state_dict(),
                "average": average.state_dict(),
                "optimizer": optimizer.state_dict(),
                "step": step,
                "spent": spent,
            },
            path,
        )

    def learn(clean: Tensor, noise: Tensor, timestep: Tensor, ids: Tensor) -> Tensor:
        signal = alphas[timestep].sqrt()[:, None, None, None]
        sigma = (1 - alphas[timestep]).sqrt()[:, None, None, None]
        with torch.autocast(device.type, torch.bfloat16, cache_enabled=not graph):
            output = unet(signal * clean + sigma * noise, timestep, model.text(ids)).sample.float()
        loss = (output - (signal * noise - sigma * clean)).square().mean()
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(parts.parameters(), 1.0)
        optimizer.step()
        return loss.detach()

    def drawn() -> dict[str, Tensor]:
        draw_from = {"generator": generator, "device": device}
        rows = torch.randint(len(latents), (batch,), **draw_from)
        clean = latents[rows].float()
        return {
            "ids": drop_prompts(tokens[rows], generator),
            "clean": clean,
            "noise": torch.randn(clean.shape, **draw_from),
            "timestep": torch.randint(len(alphas), (batch,), **draw_from),
        }

    take_step = captured(learn, drawn()) if graph else learn
    bar = tqdm(desc="diffusion", unit="step", initial=step, mininterval=10)
    mean_loss, clock, saved = torch.zeros((), device=device), time.monotonic(), time.monotonic()
    while spent < minutes * 60:
        rate = min(1.0, (step + 1) / 150) * _learning_rate(spent / 60 / minutes, peak)
        for group in optimizer.param_groups:
            if graph:  # the graph reads it where it is
                group["lr"].fill_(rate)
            else:
                group["lr"] = rate
        loss = take_step(**drawn())
        if device.type == "cuda" and step % 10 == 0:
            torch.cuda.synchronize()  # or the clock runs behind
        step += 1
        decay = min(0.999, (1 + step) / (10 + step))
        with torch.no_grad():
            torch._foreach_lerp_(
                list(average.parameters()), [p.data for p in parts.parameters()], 1 - decay
            )
        now = time.monotonic()
        spent, clock = spent + now - clock, now
        mean_loss += (loss - mean_loss) * max(0.01, 1 / step)
        bar.update()
        if snapshot and taken + 1 < snapshots and spent >= 60 * minutes * (taken + 1) / snapshots:
            taken += 1
            snapshot(average, taken)
        if step % 20 == 0:
            bar.set_postfix(loss=f"{mean_loss:.4f}", minutes=f"{spent / 60:.1f}")
        if now - saved > 180:
            save()
            saved = now
    save()
    model.text.load_state_dict(average[0].state_dict())
    model.unet.load_state_dict(average[1].state_dict())
    return model.eval()


def _learning_rate(done: float, peak: float) -> float:
    """Constant for 40% of the training, then a cosine to 1% of the peak."""
    part = max(0.0, (done - 0.4) / 0.6)
    return peak * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * min(part, 1.0))))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument(
        "--folder", type=Path, required=True, help="where the work in progress lies"
    )
    parser.add_argument("--scenes", type=int, default=48000)
    parser.add_argument("--decoder-minutes", type=float, default=6)
    parser.add_argument("--minutes", type=float, default=62, help="for the diffusion model")
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument(
        "--learning-rate",
        type=float,
        default=1e-3,
        help="its peak; a training that goes on near the end of its minutes has little of it left",
    )
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument(
        "--graph", action="store_true", help="on a GPU, a step as one CUDA graph: faster"
    )
    parser.add_argument("--compile", action="store_true", help="torch.compile the UNet")
    parser.add_argument(
        "--export", type=Path, help="default: where the package has that world's weights"
    )
    parser.add_argument(
        "--start-from",
        type=Path,
        help="exported weights to go on from, where no checkpoint is left",
    )
    parser.add_argument(
        "--world",
        choices=WORLDS,
        default=WORLDS[0],
        help="default %(default)s, for which the other defaults are meant",
    )
    parser.add_argument(
        "--keep-autoencoder", action="store_true", help="that of shadows, and export without it"
    )
    parser.add_argument(
        "--keep-encoder", action="store_true", help="that of shadows; the decoder is trained"
    )
    parser.add_argument("--decoder-width", type=int, default=WIDTH)
    parser.add_argument(
        "--object-weight", type=float, default=1, help="of objects' pixels, for the decoder"
    )
    parser.add_argument("--snapshots", type=int, default=1, help="exports in all, the last counts")
    args = parser.parse_args()
    if args.export is None and args.world not in TRAINED:
        parser.error(f"--export: no weights of {args.world} lie in the package; name a file.")
    args.export = args.export or TRAINED[args.world]
    args.folder.mkdir(parents=True, exist_ok=True)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    torch.manual_seed(2510)
    corpus = load_corpus(args.folder, args.scenes, args.workers, args.world)
    model = SceneModel(args.decoder_width, args.world).to(device)
    if args.start_from and not (args.folder / "diffusion.pt").exists():
        started = SceneModel.load(args.start_from)
        if args.decoder_width != WIDTH:  # it has no decoder of this width
            started.autoencoder.refine = model.autoencoder.refine
        model.load_state_dict(started.state_dict())
        if not args.keep_encoder:
            torch.save(model.autoencoder.state_dict(), args.folder / "encoder.pt")
        (args.folder / f"latents_{args.scenes}.pt").unlink(missing_ok=True)  # another encoder's
    if args.keep_encoder:
        shipped = SceneModel.load(WORLDS[0]).autoencoder
        for name in ("mean", "basis", "scale"):
            getattr(model.autoencoder, name).copy_(getattr(shipped, name))
        if not (args.folder / "encoder.pt").exists():
            torch.save(model.autoencoder.state_dict(), args.folder / "encoder.pt")
    if args.keep_autoencoder:
        model.autoencoder.load_state_dict(SceneModel.load(WORLDS[0]).autoencoder.state_dict())
        torch.save(model.autoencoder.state_dict(), args.folder / "encoder.pt")
        torch.save(model.autoencoder.state_dict(), args.folder / "decoder.pt")
    autoencoder = fit_encoder(corpus, args.folder, device, args.decoder_width)
    latents = encode_corpus(corpus, autoencoder, args.folder, device)

    def snapshot(average: nn.ModuleList, number: int) -> None:
        stopped = SceneModel(args.decoder_width, args.world)
        stopped.text.load_state_dict(average[0].state_dict())
        stopped.unet.load_state_dict(average[1].state_dict())
        stopped.autoencoder.load_state_dict(autoencoder.state_dict())
        name = f"{args.export.stem}-{number}of{args.snapshots}.safetensors"
        stopped.save(args.export.with_name(name), not args.keep_autoencoder)

    train_diffusion(
        model,
        corpus,
        latents,
        args.folder,
        args.minutes,
        args.batch,
        device,
        args.compile,
        args.learning_rate,
        snapshot,
        args.snapshots,
        args.graph and device.type == "cuda",
    )
    train_decoder(
        autoencoder, corpus, args.folder, args.decoder_minutes, device, args.object_weight
    )
    model.autoencoder.load_state_dict(autoencoder.state_dict())
    model.cpu().save(args.export, not args.keep_autoencoder)
    print(f"wrote {args.export}")


if __name__ == "__main__":
    main()
