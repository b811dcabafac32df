"""How closely two WebUIs agree on the same checkpoint, seeds and settings, ticked and not.

``ASYNDM_WEBUI_DIR=... PYTHON_OF_THE_WEBUI tests/hosts/agreement.py draw OUT.npz --model small-sd1``
in each of them, then ``agreement.py compare ONE.npz TWO.npz``.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parent))
SAMPLERS = ("Euler a", "Euler", "DPM++ 2M")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    modes = parser.add_subparsers(dest="mode", required=True)
    drawing = modes.add_parser("draw")
    drawing.add_argument("out", type=Path)
    drawing.add_argument("--model", default="small-sd1")
    drawing.add_argument(
        "--quantise", action="store_true", help="AUTOMATIC1111: whole timesteps, as Forge has them"
    )
    comparing = modes.add_parser("compare")
    comparing.add_argument("files", type=Path, nargs=2)
    options = parser.parse_args()
    if options.mode == "draw":
        draw(options.out.resolve(), options.model, options.quantise)
    else:
        compare(*options.files)
    return 0


def draw(out: Path, model: str, quantise: bool) -> None:
    from jobs import PROMPTS, make, ticked
    from real_hosts import real_host

    host = real_host()()
    host.checkpoint(model)
    if quantise:
        host.shared.opts.data["enable_quantization"] = True
    images = {}
    for sampler in SAMPLERS:
        for kind in ("txt2img", "img2img"):
            for prompt in ("a cat beside a dog", PROMPTS["AND"], PROMPTS["BREAK"]):
                asked = {"prompt": prompt, "sampler_name": sampler, "scheduler": "Karras"}
                for way, settings in (("unticked", {}), ("ticked", ticked(curvature=0.8))):
                    key = f"{sampler} | {kind} | {prompt[:24]} | {way}"
                    images[key] = make(host, kind, **asked, **settings).images[0]
    np.savez_compressed(out, **images)


def compare(one: Path, two: Path) -> None:
    first, second = np.load(one), np.load(two)
    for way in ("unticked", "ticked"):
        apart = [
            np.abs(first[key].astype(int) - second[key].astype(int))
            for key in first.files
            if key.endswith(f"| {way}")
        ]
        worst = max(a.max() for a in apart)
        mean = np.mean([a.mean() for a in apart])
        print(f"{way}: {len(apart)} pictures, mean difference {mean:.3f}, largest {worst} of 255")
    changed = [
        np.abs(first[key].astype(int) - first[key.replace("unticked", "ticked")]).mean()
        for key in first.files
        if key.endswith("| unticked")
    ]
    print(f"the tick itself changes {np.mean(changed):.2f} on average")


if __name__ == "__main__":
    raise SystemExit(main())
