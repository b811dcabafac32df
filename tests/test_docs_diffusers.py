"""The examples of docs/diffusers.md, run as they stand there on tiny checkpoints."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import tiny_checkpoint
from PIL import Image
from steer_toys import picture, region

PAGE = Path(__file__).resolve().parents[1] / "docs" / "diffusers.md"
EXAMPLES = re.findall(r"```python\n(.*?)```", PAGE.read_text("utf-8"), re.DOTALL)
# What is changed in them: where the weights are, the device, the number of steps.
SMALLER = {"torch.float16": "torch.float32", '"cuda"': '"cpu"', "steps=50": "steps=4"}


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    folder = tmp_path_factory.mktemp("docs")
    model = tiny_checkpoint.save(folder / "sd1")
    return {"MODEL": model, "CONTROLNET": tiny_checkpoint.save_control(folder / "control", model)}


def test_there_are_three():
    assert len(EXAMPLES) == 3 and all("asyndm.steer(" in example for example in EXAMPLES)


@pytest.mark.parametrize("number", range(3))
def test_an_example_runs(number, weights, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("picture", "edges"):
        picture().save(f"{name}.png")
    region().save("mask.png")
    Image.new("L", (32, 32), 255).crop((0, 0, 16, 32)).save("shark.png")
    region().save("bike.png")
    code = EXAMPLES[number]
    for name, path in weights.items():
        code = code.replace(f'"{name}"', repr(str(path)))
    for old, new in SMALLER.items():
        code = code.replace(old, new)
    names: dict = {}
    exec(compile(code, f"{PAGE.name}, example {number + 1}", "exec"), names)
    made = {"masks.png", "film.png"}, {"repainted.png"}, {"controlled.png"}
    assert made[number] <= {path.name for path in tmp_path.iterdir()}
    if "steered" in names:
        assert names["steered"].notes == [] and len(names["steered"].film) == 4
    assert type(names["pipe"]).__name__.endswith("Pipeline")
