"""``python -m asyndm bench norms``: what two noise levels in one image do to the prediction.

Drawn scenes, their true objects at one timestep and everything else at another, one network call;
the error of the predicted latents in object cells and in background cells, beside the same call
with everything at the objects' timestep (the background's: at the background's). Host norms and
levelled ones, whose table is of other scenes; and what such a table is worth where it is of few
pictures that the model made itself, or of another size. The prediction alone is measured here: what
it does to pictures is for ``bench repaint`` to say.
"""

from __future__ import annotations

import argparse
import json
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from asyndm.core.rows import Rows
from asyndm.core.run import NetworkCall
from asyndm.core.schedule import PixelTime
from asyndm.core.settings import SettingsError, check_whole
from asyndm.network import attach
from asyndm.network.calibrate import from_walk
from asyndm.network.norm_table import NormTable
from asyndm.network.norms import LevelledNorms, Reach
from asyndm.scenes import chosen
from asyndm.scenes.checker import object_cells
from asyndm.scenes.levelled import scene_table
from asyndm.scenes.model import LATENT_SIZE, PATCH, training_alphas
from asyndm.scenes.pipeline import ScenePipeline
from asyndm.scenes.text import tokenize
from asyndm.scenes.train import to_input
from asyndm.scenes.world import draw, sample_scene, sample_wish

from .scenes import PRECISIONS

OBJECTS = (950, 850, 700, 500, 300)
AHEAD = (0.30, 0.45, 1.0, -0.10)  # how much lower the background's timestep is, a share
SCENES, SEED, NOISE = 96, 31, 3  # the pictures and the noise of the first trials
# Arms: name -> (form, reach); None = the host's norms.
ARMS: dict[str, tuple[str, Reach] | None] = {
    "host": None,
    "shifted": ("shifted", Reach()),
    "scaled": ("scaled", Reach()),
    "scaled, objects only": ("scaled", Reach(objects_only=True)),
    "scaled, from 200 on": ("scaled", Reach(disparity=200)),
}


@dataclass(frozen=True)
class Scenes:
    """Clean latents [B, C, h, w], contexts, where objects are [B, h, w], and noise."""

    latents: Tensor
    context: Tensor
    objects: Tensor
    noise: Tensor
    _equal: dict[float, dict[str, np.ndarray]] = field(default_factory=dict)

    def equal(self, pipeline: ScenePipeline, timestep: float) -> dict[str, np.ndarray]:
        """The errors where all pixels share a timestep."""
        if timestep not in self._equal:
            self._equal[timestep] = errors(pipeline, self, timestep, timestep)
        return self._equal[timestep]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of this bench."""
    parser.add_argument("--scenes", type=int, default=SCENES)
    parser.add_argument("--seed", type=int, default=SEED, help="of the scenes that are predicted")
    parser.add_argument("--precision", choices=PRECISIONS, default=PRECISIONS[0])
    chosen.add_arguments(parser)
    parser.add_argument("--device", default="cpu", help="where torch runs the network")
    parser.add_argument("--threads", type=int, help="of torch")
    parser.add_argument("--json", type=Path, metavar="FILE")


def main(args: argparse.Namespace) -> int:
    """Measure and print.

    Raises:
        SettingsError: a value that cannot be used.
    """
    count = check_whole("scenes", args.scenes, 2, 10_000)
    if args.json and not args.json.parent.is_dir():
        raise SettingsError(f"json: there is no folder {args.json.parent}.")
    if args.threads:
        torch.set_num_threads(args.threads)
    pipeline = chosen.open_chosen(args).to(args.device)
    with precision(args.precision, pipeline.device):
        report = {
            "scenes": count,
            **chosen.told(args, lambda named: Path(named).name),
            "seed": args.seed,
            "precision": args.precision,
            **measure(pipeline, count, args.seed),
        }
    print(describe(report))
    if args.json:
        args.json.write_text(json.dumps(report, indent=1) + "\n", "utf-8")
    return 0


def precision(name: str, device: torch.device):
    """The network in this precision inside the block."""
    if name == PRECISIONS[0]:
        return nullcontext()
    return torch.autocast(device.type, torch.bfloat16)


def make_scenes(pipeline: ScenePipeline, count: int, seed: int, wide: int = 1) -> Scenes:
    """Drawn scenes at coupling 1.

    Args:
        wide: so many scenes stand side by side in one image, under the first one's prompt.
    """
    rng, pictures, prompts = np.random.default_rng(seed), [], []
    for _ in range(count):
        row = []
        for number in range(wide):
            wish = sample_wish(rng)
            row.append(np.asarray(draw(sample_scene(rng, wish, 1.0, pipeline.model.world))))
            if not number:
                prompts.append(tokenize(wish.prompt(), 1.0))
        pictures.append(np.concatenate(row, 1))
    pictures = np.stack(pictures)
    latents = pipeline.model.autoencoder.encode(to_input(pictures, pipeline.device)).float()
    objects = torch.from_numpy(object_cells(pictures, PATCH)).to(pipeline.device)
    noise = torch.randn(latents.shape, generator=torch.Generator().manual_seed(NOISE))
    context = pipeline.model.encode_tokens(prompts)
    return Scenes(latents, context, objects, noise.to(pipeline.device))


@torch.no_grad()
def errors(
    pipeline: ScenePipeline, scenes: Scenes, t_object: float, t_background: float, norms=None
) -> dict[str, np.ndarray]:
    """Squared error of the predicted latents by scene, in object cells and in the others."""
    rows, device = len(scenes.latents), scenes.latents.device
    table = torch.tensor([float(t_background), float(t_object)])
    alphas = training_alphas()[table.long()]
    index = scenes.objects.long()
    call = NetworkCall(
        PixelTime(
            ((1 - alphas) / alphas).sqrt().to(device),
            index,
            table.to(device),
            tuple(scenes.latents.shape[-2:]),
        ),
        table.to(device),
        Rows.only_cond(rows, device=device),
    )
    signal, sigma = (v.to(device)[index][:, None] for v in (alphas.sqrt(), (1 - alphas).sqrt()))
    x = signal * scenes.latents + sigma * scenes.noise
    with attach(pipeline.model.unet, call, norms=norms):
        timestep = torch.full((rows,), float(t_object), device=device)
        v = pipeline.model.unet(x, timestep, encoder_hidden_states=scenes.context).sample.float()
    error = (signal * x - sigma * v - scenes.latents).square().mean(1)
    return {
        name: ((error * mask).sum((1, 2)) / mask.sum((1, 2)).clamp(min=1)).cpu().numpy()
        for name, mask in (("objects", scenes.objects), ("background", ~scenes.objects))
    }


def measure(pipeline: ScenePipeline, count: int, seed: int) -> dict[str, Any]:
    """Every arm over the grid, then the tables of other pictures and another size."""
    scenes, table = make_scenes(pipeline, count, seed), scene_table(pipeline)
    rows = []
    for name, arm in tqdm(ARMS.items(), unit="arm"):
        norms = None if arm is None else LevelledNorms(table, form=arm[0], reach=arm[1])
        rows += grid(pipeline, scenes, name, norms)
    tables = []
    for name, one in other_tables(pipeline).items():
        norms = LevelledNorms(one)
        tables += grid(pipeline, scenes, name, norms, OBJECTS[-2:], AHEAD[1:2])
    wide = make_scenes(pipeline, max(2, count // 2), seed + 1, wide=2)
    for name, norms in (("host", None), ("table of one scene's size", LevelledNorms(table))):
        tables += grid(pipeline, wide, f"two scenes wide, {name}", norms, OBJECTS[-2:], AHEAD[1:2])
    return {"rows": rows, "tables": tables}


def grid(
    pipeline: ScenePipeline,
    scenes: Scenes,
    name: str,
    norms: LevelledNorms | None,
    t_objects=OBJECTS,
    ahead=AHEAD,
) -> list[dict]:
    """A row for every pair of timesteps: the change of the error against equal noise, with se."""
    rows = []
    for t_object in t_objects:
        equal = scenes.equal(pipeline, t_object)["objects"]
        for part in ahead:
            t_background = min(999, round(t_object * (1 - part)))
            here = errors(pipeline, scenes, t_object, t_background, norms)
            below = scenes.equal(pipeline, t_background)["background"]
            row = {"norms": name, "t_object": t_object, "t_background": t_background}
            for what, base in (("objects", equal), ("background", below)):
                change = (here[what] - base) / base.mean()
                row[what] = {
                    "error": _short(here[what].mean()),
                    "change": _short(change.mean()),
                    "se": _short(change.std(ddof=1) / len(change) ** 0.5),
                }
            rows.append(row)
    return rows


def other_tables(pipeline: ScenePipeline) -> dict[str, NormTable]:
    """Tables as a WebUI makes them: of pictures the model makes itself, one prompt at a time."""
    made = {}
    for images in (1, 2, 4, 16):
        rng = np.random.default_rng(5)
        wishes = [tokenize(sample_wish(rng).prompt(), 1.0) for _ in range(images)]
        model, device = pipeline.model, pipeline.device
        context = model.encode_tokens([tokenize("", 1.0)] * images + wishes)
        x = torch.empty(2 * images, model.unet.config.in_channels, LATENT_SIZE, LATENT_SIZE)
        made[f"table of {images} of the model's own pictures"] = from_walk(
            model.unet,
            (x.to(device), torch.zeros(2 * images, device=device)),
            {"encoder_hidden_states": context},
            Rows.uncond_then_cond(images, device=device),
            pipeline.parametrisation,
            pictures=images,
        )
    return made


def describe(report: dict) -> str:
    """The figures in a few lines."""
    lines = [f"{report['scenes']} scenes; change of the error against equal noise:"]
    for row in [*report["rows"], *report["tables"]]:
        parts = [
            f"{what} {row[what]['change']:+7.1%} +-{1.96 * row[what]['se']:.1%}"
            for what in ("objects", "background")
        ]
        at = f"{row['t_object']}/{row['t_background']}"
        lines.append(f"{row['norms']:<44} {at:>8}: " + ", ".join(parts))
    return "\n".join(lines)


def _short(value: float) -> float:
    return float(f"{value:.5g}")
