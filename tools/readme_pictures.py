"""Make the README's pictures with the embedded model.

``PYTHONPATH=. python tools/readme_pictures.py`` writes ``docs/asyndm.jpg`` (the first prompts of
``bench scenes``' test split at its first noise, three ways, whatever came out, and what steered
AsynDM in the first of them) and ``docs/contact_sheet.jpg`` (the first 64 prompts of the development
split, synchronous). Nothing is chosen by eye.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from PIL import Image, ImageDraw

from asyndm.bench.scenes import bench_prompts, seed_of
from asyndm.core.settings import Settings
from asyndm.page.preview import enlarge, film_strip, font
from asyndm.scenes import chosen
from asyndm.scenes.pipeline import Request, Result, ScenePipeline

METHODS = {"synchronous": "synchronous", "concave": "concave for all", "asyndm": "AsynDM"}
PROMPTS, ACROSS = 4, 2
SIDE, GAP, HEAD, FOOT = 200, 12, 34, 52
INK, GOOD, BAD = "#1f2937", "#15803d", "#b91c1c"


def comparison(pipeline: ScenePipeline, curvature: float) -> Image.Image:
    """Every prompt's three pictures with their verdicts, over the first one's film strip."""
    settings = Settings(enabled=True, curvature=curvature)
    results = [
        pipeline.generate(Request(prompt, seed=seed_of(number, 0)), settings, tuple(METHODS))
        for number, prompt in enumerate(bench_prompts("test", PROMPTS))
    ]
    strip = film_strip(results[0].film)
    wide, high = 3 * SIDE + 2 * GAP, HEAD + SIDE + FOOT
    between = 4 * GAP
    across = ACROSS * wide + (ACROSS - 1) * between
    top = -(-PROMPTS // ACROSS) * high
    size = (max(strip.width, across) + 2 * GAP, top + HEAD + strip.height)
    page = Image.new("RGB", size, "white")
    pen, left = ImageDraw.Draw(page), (page.width - across) // 2
    for number, result in enumerate(results):
        place = (left + number % ACROSS * (wide + between), number // ACROSS * high)
        _triple(page, pen, place, result, number + 1)
    says = f"What steered AsynDM in number 1: “{results[0].request.prompt}”"
    pen.text((page.width / 2, top + HEAD / 2), says, INK, font(18), anchor="mm")
    page.paste(strip, ((page.width - strip.width) // 2, top + HEAD))
    return page


def _triple(
    page: Image.Image, pen: ImageDraw.ImageDraw, place: tuple[int, int], result: Result, number: int
) -> None:
    left, top = place
    prompt = f"{number}: “{result.request.prompt}”"
    pen.text((left, top + HEAD / 2), prompt, INK, font(17), anchor="lm")
    for column, (method, label) in enumerate(METHODS.items()):
        x = left + column * (SIDE + GAP)
        page.paste(enlarge(result.images[method][0], SIDE), (x, top + HEAD))
        verdict = result.verdicts[method][0]
        wrong = [part for part in verdict.sentence.split("; ") if not part.endswith(": yes")]
        middle, below = x + SIDE / 2, top + HEAD + SIDE
        pen.text((middle, below + 5), label, INK, font(16), anchor="ma")
        mark, colour = ("all as asked", GOOD) if verdict.right else (wrong[0], BAD)
        pen.text((middle, below + 26), mark, colour, font(13), anchor="ma")


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
    parser.add_argument("--curvature", type=float, default=0.9, help="default: docs/auroras.json's")
    parser.add_argument("--out", type=Path, default=Path(__file__).parents[1] / "docs")
    chosen.add_arguments(parser)
    args = parser.parse_args()
    args.out.mkdir(exist_ok=True)
    pipeline = chosen.open_chosen(args)
    pages = {
        "asyndm.jpg": comparison(pipeline, args.curvature),
        "contact_sheet.jpg": contact_sheet(pipeline),
    }
    for name, page in pages.items():
        page.save(args.out / name, quality=82, optimize=True)
        print(f"wrote {args.out / name} ({(args.out / name).stat().st_size} bytes)")


if __name__ == "__main__":
    main()
