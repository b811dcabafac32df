"""What the tests of bench tune share: a toy whose best settings are known."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from PIL import Image

from asyndm import cli
from asyndm.bench.alignment.backends import Backend, Drawn
from asyndm.core.profile import PROFILES

BEST = {"k": 0.8, "w": 4.0, "lag": 1.5}


class Toy(Backend):
    """Grey pictures, the brighter the nearer a method is to what is best; two rows a step.

    Attributes:
        drawn: (method, prompt) of every picture.
        die: raises before so many pictures are drawn.
        slope: how much it matters.
    """

    batch = 4
    scores = ("bright:Bright",)

    def __init__(self, setup, slope=100.0):
        self.setup, self.drawn, self.die, self.slope = setup, [], None, slope

    def identity(self):
        return {"backend": "toy", "weights": "ab" * 8}

    def best(self, job):
        """The best k of a picture."""
        return BEST["k"]

    def off(self, method, job=None):
        if method.clock == "synchronous":
            return 1.0 if method.w is None else abs(np.log(method.w / BEST["w"]))
        if method.settings.curve != "learned":
            return abs(method.settings.curvature - self.best(job))
        knots = PROFILES.read(method.settings.profile).knots
        return abs(np.mean([own - lag for own, lag in knots]) - BEST["lag"]) / 2

    def draw(self, jobs):
        if self.die is not None and len(self.drawn) >= self.die:
            raise KeyboardInterrupt
        made = []
        for job in jobs:
            self.drawn.append((job.method.text, job.prompt.text))
            noise = np.random.default_rng([job.seed, len(job.method.text)]).normal(0, 3)
            grey = np.clip(200 - self.slope * self.off(job.method, job) + noise, 0, 255)
            steps = self.setup.steps if job.method.steps is None else job.method.steps
            made.append(Drawn(Image.new("RGB", (8, 8), (int(grey),) * 3), 2 * steps, 0.0))
        return made


def install(tmp_path, monkeypatch, made):
    """The toy in place of all backends, its score, and profiles' folder put back."""
    import asyndm.bench.alignment.command as alignment
    import asyndm.bench.tune.command as command

    (tmp_path / "bright.py").write_text(
        "class Bright:\n"
        "    def score(self, images, texts):\n"
        "        return [image.getpixel((0, 0))[0] for image in images]\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(PROFILES, "folder", PROFILES.folder)

    def opened(text, setup):
        made.setup = replace(setup, cfg=2.5)
        return made

    monkeypatch.setattr(command, "open_backend", opened)
    monkeypatch.setattr(alignment, "open_backend", opened)
    return made


def tune(folder, *more):
    base = ["--folder", folder, "--limit", 8, "--trials", 3, "--steps", 3, "--fresh", 6]
    args = [*([more[0]] if more[:1] in (("run",), ("confirm",)) else []), *base]
    more = more[1:] if len(args) > len(base) else more
    score = [] if "--score" in more else ["--score", "bright:Bright"]
    return cli.main(["bench", "tune", *map(str, (*args, *score, *more))])
