"""Make the README's pictures with the embedded model.

``PYTHONPATH=. python tools/readme_pictures.py --seed 2`` writes ``docs/asyndm.png`` (one prompt at
one seed, three ways, and what steered AsynDM) and ``docs/contact_sheet.png`` (64 prompts of the
development split, synchronous).
"""

from __future__ import annotations

import argparse
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from asyndm.bench.scenes import bench_prompts, seed_of
from asyndm.core.settings import Settings
from asyndm.page.preview import enlarge, film_strip
from asyndm.scenes.pipeline import Request, ScenePipeline

METHODS = {"synchronous": "synchronous", "concave": "concave for all", "asyndm": "AsynDM"}
SIDE, GAP, HEAD = 256, 14, 46


def comparison(pipeline: ScenePipeline, prompt: str, seed: int, settings: Settings) -> Image.Image:
    """The three pictures with their verdicts over the film strip."""
    result = pipeline.generate(Request(prompt, seed=seed), settings, tuple(METHODS))
    strip = film_strip(result.film)
    width = max(strip.width, 3 * SIDE + 4 * GAP)
    top = HEAD + SIDE + 44
    page = Image.new("RGB", (width, top + strip.height + GAP), "white")
    pen = ImageDraw.Draw(page)
    font, small = ImageFont.load_default(19), ImageFont.load_default(14)
    left = (width - 3 * SIDE - 2 * GAP) // 2
    pen.text((width / 2, 10), f"“{prompt}”, seed {seed}", "#1f2937", font, anchor="ma")
    for number, (method, label) in enumerate(METHODS.items()):
        x = left + number * (SIDE + GAP)
        page.paste(enlarge(result.images[method][0], SIDE), (x, HEAD))
        verdict = result.verdicts[method][0]
        wrong = [part for part in verdict.sentence.split("; ") if not part.endswith(": yes")]
        mark = "all right" if verdict.right else wrong[0]
        pen.text((x + SIDE / 2, HEAD + SIDE + 4), label, "#1f2937", font, anchor="ma")
        colour = "#15803d" if verdict.right else "#b91c1c"
        pen.text((x + SIDE / 2, HEAD + SIDE + 26), mark, colour, small, anchor="ma")
    page.paste(strip, ((width - strip.width) // 2, top))
    return page


def contact_sheet(pipeline: ScenePipeline, count: int = 64) -> Image.Image:
    """Synchronous pictures of ``count`` development prompts, eight a row."""
    prompts = bench_prompts("development", count)
    page = Image.new("RGB", (8 * 132 - 4, (count // 8) * 132 - 4), "white")
    for start in range(0, count, 16):
        batch = prompts[start : start + 16]
        seeds = [seed_of(start + j, 0) for j in range(len(batch))]
        sampled = pipeline.sample(batch, seeds, "synchronous", Settings(), Request(""))
        for j, pixels in enumerate(pipeline.model.decode_pixels(sampled.latents).numpy()):
            place = ((start + j) % 8 * 132, (start + j) // 8 * 132)
            page.paste(enlarge(Image.fromarray(pixels), 128), place)
    return page


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--prompt", default="two red circles and a blue square on a lake")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--curvature", type=float, default=Settings().curvature)
    parser.add_argument("--out", type=Path, default=Path(__file__).parents[1] / "docs")
    args = parser.parse_args()
    args.out.mkdir(exist_ok=True)
    pipeline = ScenePipeline.load()
    settings = Settings(enabled=True, curvature=args.curvature)
    pages = {
        "asyndm.png": comparison(pipeline, args.prompt, args.seed, settings),
        "contact_sheet.png": contact_sheet(pipeline),
    }
    for name, page in pages.items():
        page.quantize(192, dither=Image.Dither.NONE).save(args.out / name, optimize=True)
        print(f"wrote {args.out / name}")


if __name__ == "__main__":
    main()
