"""How long a ticked image takes against the built-in twin, on a real WebUI: interleaved pairs.

``ASYNDM_WEBUI_DIR=... PYTHON_OF_THE_WEBUI tests/hosts/timing.py --model full-sd1 --pairs 5``
"""

from __future__ import annotations

import argparse
import contextlib
import json
import sys
import time
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parent))


class Sampled(Exception):
    """The part that is timed is done."""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="full-sd1")
    parser.add_argument("--size", type=int, default=512)
    parser.add_argument("--steps", type=int, default=4)
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--sampler", default="Euler a")
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    import torch

    torch.set_num_threads(options.threads)
    from jobs import make, ticked
    from real_hosts import real_host

    host = real_host()()
    from modules import sd_samplers_kdiffusion

    host.checkpoint(options.model)
    torch.set_num_threads(options.threads)
    seconds: list[float] = []
    launch = sd_samplers_kdiffusion.KDiffusionSampler.launch_sampling

    def timed(self, steps, func):  # sampling alone: decoding is the same in both, and left out
        begin = time.perf_counter()
        launch(self, steps, func)
        seconds.append(time.perf_counter() - begin)
        raise Sampled

    sd_samplers_kdiffusion.KDiffusionSampler.launch_sampling = timed
    asked = {"steps": options.steps, "width": options.size, "height": options.size}
    asked["sampler_name"] = options.sampler

    def draw(on: bool) -> float:
        with contextlib.suppress(Sampled):
            make(host, "txt2img", **asked, **(ticked(curvature=0.7) if on else {}))
        return seconds[-1]

    draw(False), draw(True)  # warm
    pairs = []
    for number in range(options.pairs):
        first = number % 2 == 0  # neither is always the first
        times = {first: draw(first), not first: draw(not first)}
        pairs.append((times[True], times[False]))
        print(f"ticked {times[True]:.2f} s, twin {times[False]:.2f} s", flush=True)
    logs = np.log([on / off for on, off in pairs])
    spread = 2.0 * logs.std(ddof=1) / len(logs) ** 0.5 if len(logs) > 1 else float("nan")
    low, mid, high = (float(np.exp(logs.mean() + s)) for s in (-spread, 0, spread))
    print(json.dumps({"ratio": round(mid, 4), "low": round(low, 4), "high": round(high, 4)}))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
