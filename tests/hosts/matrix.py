"""Every kind of job against every kind of prompt and ending, on a real WebUI; prints a table.

``ASYNDM_WEBUI_DIR=... PYTHON_OF_THE_WEBUI tests/hosts/matrix.py [--models sd1 sdxl]``
"""

from __future__ import annotations

import argparse
import itertools
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parent))

ENDINGS = ("finish", "interrupt", "exception")
KINDS = ("txt2img", "hires", "img2img", "inpaint", "soft inpaint", "9-channel")
PROMPTS = ("plain", "AND", "BREAK", "long")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", nargs="+", default=["sd1", "sdxl"])
    parser.add_argument("--kinds", nargs="+", default=KINDS, choices=KINDS)
    parser.add_argument("--size", type=int, default=128, help="of the images")
    options = parser.parse_args()
    from real_hosts import real_host

    host = real_host()()
    failed: list[str] = []
    counts: Counter[tuple[str, str]] = Counter()
    for model in options.models:
        for kind in options.kinds:
            name = f"{model}-inpaint" if kind == "9-channel" else model
            if not host.has(name):
                print(f"{name}: no such checkpoint; {kind} left out", flush=True)
                continue
            host.checkpoint(name)
            host.txt2img(prompt="", steps=1)  # hosts leave notes on a model at its first use
            for batch, prompt, ending in itertools.product((1, 3), PROMPTS, ENDINGS):
                cell = f"{model} | {kind} | batch {batch} | {prompt} | {ending}"
                try:
                    problem = run(host, kind, batch, prompt, ending, options.size)
                except Exception as error:  # noqa: BLE001 - the table names it
                    problem = f"{type(error).__name__}: {error}"
                counts[model, kind] += problem is None
                if problem is not None:
                    failed.append(f"{cell}: {problem}")
                    print(failed[-1], flush=True)
            print(f"{model:<12} {kind:<14} {counts[model, kind]}/24 right", flush=True)
    print(f"{sum(counts.values())} right, {len(failed)} wrong")
    return int(bool(failed))


def pairs(samplers: Sequence[str], kinds: Sequence[str] = KINDS[:4]) -> list[tuple[str, ...]]:
    """(sampler, kind, prompt, ending): every sampler with every kind, prompt form and ending."""
    most = max(len(kinds), len(PROMPTS), len(ENDINGS))
    return [
        (sampler, kinds[j % len(kinds)], PROMPTS[(i + j) % len(PROMPTS)], ENDINGS[ending])
        for i, sampler in enumerate(samplers)
        for j in range(most)
        for ending in [(i // len(PROMPTS) + j) % len(ENDINGS)]
    ]


def run(
    host, kind: str, batch: int, prompt: str, ending: str, size: int, sampler: str = "Euler a",
    steps: int = 4, settings: dict | None = None, more: dict | None = None,
) -> str | None:  # fmt: skip
    """What is wrong with one cell; None = nothing. ``settings``: AsynDM's, besides k.

    ``more``: of the request.
    """
    from jobs import PROMPT, Traces, make
    from jobs import PROMPTS as TEXTS
    from modules import script_callbacks
    from modules.shared import state

    traces = Traces(host)
    asked = {"prompt": TEXTS.get(prompt, PROMPT), "batch_size": batch, "steps": steps}
    asked["sampler_name"] = sampler
    asked |= {"width": size, "height": size, **(more or {})}
    scripts = {"AsynDM": {"args": [{"curvature": 0.8, **(settings or {})}]}}
    if kind == "soft inpaint":
        scripts["Soft Inpainting"] = {"args": [True, 1, 0.5, 4, 0, 0.5, 2]}
    stop_at = 2
    here = [-1]

    def watch(params) -> None:
        here[0] = params.denoiser.step
        if ending == "interrupt" and here[0] == stop_at:
            state.interrupted = True

    def fail(module, args) -> None:
        if ending == "exception" and here[0] == stop_at:
            raise RuntimeError("injected")

    script_callbacks.on_cfg_denoiser(watch)
    handle = host.network().register_forward_pre_hook(fail)
    images, raised = [], None
    try:
        job = "inpaint" if kind in ("soft inpaint", "9-channel") else kind
        images = make(host, job, alwayson_scripts=scripts, **asked).images
    except RuntimeError as error:
        raised = str(error)
    finally:
        handle.remove()
        script_callbacks.remove_callbacks_for_function(watch)
    if ending == "exception":
        if raised != "injected":
            return f"the injected error came out as {raised!r}"
    elif raised is not None:
        return raised
    elif not images or any(not np.isfinite(i).all() or i.std() == 0 for i in images):
        return "an empty image"
    return None if traces.now() == traces.before else "traces are left behind"


if __name__ == "__main__":
    raise SystemExit(main())
