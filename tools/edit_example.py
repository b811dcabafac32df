"""Choose the example that the studio's Edit tab opens with, and show all that it was drawn from.

``PYTHONPATH=. python tools/edit_example.py`` repaints the first 50 pictures of ``bench repaint``'s
set *confirm*, plainly and with the region slow at the preset *edit*'s k; takes the outcome that is
the most frequent of the four (both right, only one, none); draws one of its pictures with a
generator whose seed is below; and writes ``asyndm/scenes/edit_example_WORLD.json`` and
``docs/edit_examples-WORLD.jpg``. Nothing is chosen by eye.
"""

from __future__ import annotations

import argparse
import json
from collections import Counter
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont

from asyndm.bench.repaint import ARMS, BASELINE, painted_by, sample_jobs
from asyndm.page.preview import outlined
from asyndm.scenes import chosen as chosen_world
from asyndm.scenes.checker import check
from asyndm.scenes.edit import CURVATURE, as_text
from asyndm.scenes.pipeline import Request

ROOT = Path(__file__).resolve().parents[1]
COUNT, SET, SEED = 50, "confirm", 4504
SLOW = next(
    name for name, s in ARMS.items() if name == f"region slow, k {CURVATURE:g}".replace("0.", ".")
)
OUTCOMES = {
    (True, True): "both right",
    (False, True): "only the slow region right",
    (True, False): "only plain inpainting right",
    (False, False): "neither right",
}
SIDE, GAP, ACROSS = 80, 6, 5


def choose(outcomes: list[str]) -> tuple[str, int]:
    """The most frequent outcome, and which of its pictures is drawn."""
    most = Counter(outcomes).most_common(1)[0][0]
    these = [i for i, outcome in enumerate(outcomes) if outcome == most]
    return most, int(np.random.default_rng(SEED).choice(these))


def sheet(jobs, made, outcomes, chosen) -> Image.Image:
    """Fifty triples: before (the region outlined), plain, region slow; green = right."""
    wide, high, head = 3 * (SIDE + 2) + GAP * 2, SIDE + GAP * 2, 30
    page = Image.new("RGB", (ACROSS * wide, head + -(-len(jobs) // ACROSS) * high), "white")
    pen = ImageDraw.Draw(page)
    counts = ", ".join(f"{name} {outcomes.count(name)}" for name in OUTCOMES.values())
    line = (
        f"before | plain | region slow (green: as asked, red: not). Of {len(jobs)}: {counts}. "
        "Blue frame: the example."
    )
    pen.text((6, 8), line, "#1f2937", ImageFont.load_default(14))
    for i, job in enumerate(jobs):
        left, top = i % ACROSS * wide + GAP, head + i // ACROSS * high + GAP
        if i == chosen:
            frame = (left - 4, top - 4, left + 3 * (SIDE + 2) + 1, top + SIDE + 3)
            pen.rectangle(frame, outline="#2563eb", width=2)
        before = outlined(Image.fromarray(job.picture), job.region, SIDE)
        page.paste(before, (left, top))
        for column, arm in enumerate((BASELINE, SLOW), start=1):
            place = (left + column * (SIDE + 2), top)
            page.paste(Image.fromarray(made[arm][i]).resize((SIDE, SIDE), Image.LANCZOS), place)
            right = check(made[arm][i], job.wish).right
            bar = (place[0], top + SIDE - 4, place[0] + SIDE - 1, top + SIDE - 1)
            pen.rectangle(bar, fill="#15803d" if right else "#dc2626")
    return page


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--threads", type=int, default=1, help="of torch")
    chosen_world.add_arguments(parser)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    pipeline, request = chosen_world.open_chosen(args), Request("")
    jobs = sample_jobs(pipeline, SET, COUNT, request)
    made = {
        arm: np.concatenate(
            [painted_by(pipeline, jobs[at : at + 16], arm, request) for at in range(0, COUNT, 16)]
        )
        for arm in (BASELINE, SLOW)
    }
    outcomes = [
        OUTCOMES[tuple(check(made[arm][i], job.wish).right for arm in (BASELINE, SLOW))]
        for i, job in enumerate(jobs)
    ]
    most, chosen = choose(outcomes)
    job = jobs[chosen]
    example = {
        "story": f"An example: {most}, the most frequent outcome of {COUNT} such edits "
        f"({outcomes.count(most)}); which of them was drawn by a generator, not by eye.",
        "number": chosen,
        "prompt": job.wish.prompt(),
        "seed": job.seed,
        "region": ["".join("#" if cell else "." for cell in row) for row in job.region],
        "picture": as_text(job.picture),
        "plain": as_text(made[BASELINE][chosen]),
        "slow": as_text(made[SLOW][chosen]),
    }
    text = json.dumps(example, indent=1) + "\n"
    (ROOT / f"asyndm/scenes/edit_example_{pipeline.world}.json").write_text(text, "utf-8")
    page = sheet(jobs, made, outcomes, chosen)
    path = ROOT / f"docs/edit_examples-{pipeline.world}.jpg"
    page.save(path, quality=70, optimize=True)
    print(f"{Counter(outcomes)}; number {chosen}; wrote {path} ({path.stat().st_size} bytes)")


if __name__ == "__main__":
    main()
