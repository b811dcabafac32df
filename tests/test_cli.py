"""The command line: files, and one line for bad input."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys

import pytest
import torch
from fake_scenes import FakePipeline
from PIL import Image
from safetensors.torch import save_file

from asyndm import cli
from asyndm.core.settings import WEBUI_ONLY, Settings
from asyndm.scenes.pipeline import Request, ScenePipeline

PROMPT = "two red circles and a blue square"


@pytest.fixture
def fake(monkeypatch) -> FakePipeline:
    pipeline = FakePipeline()
    monkeypatch.setattr(ScenePipeline, "load", classmethod(lambda cls, path=None: pipeline))
    return pipeline


def test_generate_writes_images_verdicts_and_the_film(fake, tmp_path, capsys):
    assert cli.main(["generate", PROMPT, "--out", str(tmp_path / "a" / "b"), "--steps", "3"]) == 0
    files = sorted(path.name for path in (tmp_path / "a" / "b").iterdir())
    assert files == [
        "asyndm-0.png",
        "concave-0.png",
        "film.png",
        "synchronous-0.png",
        "verdicts.json",
    ]
    report = json.loads((tmp_path / "a" / "b" / "verdicts.json").read_text())
    assert report["verdicts"]["asyndm"][0]["sentence"] == "circle: yes; square: missing"
    assert report["objects"]["circles"] == [3]
    assert "circle: yes; square: missing" in capsys.readouterr().out


def test_the_png_text_tells_how_the_image_was_made(fake, tmp_path):
    argv = [
        "generate",
        PROMPT,
        "--out",
        str(tmp_path),
        "--curvature",
        "0.7",
        "--seed",
        "4294967295",
    ]
    assert cli.main(argv) == 0
    with Image.open(tmp_path / "asyndm-0.png") as image:
        assert image.size == (384, 384)
        told = json.loads(image.text["asyndm"])
        assert image.text["prompt"] == PROMPT
    assert told["curvature"] == 0.7 and told["seed"] == 4294967295 and told["method"] == "asyndm"


def test_a_method_of_guidance_and_what_it_cost(tmp_path):
    """With the real pipeline: counted rows and effective guidance stand in the picture."""
    argv = ["generate", PROMPT, "--out", str(tmp_path), "--steps", "2", "--guidance", "pag"]
    assert cli.main([*argv, "--methods", "synchronous", "--cfg", "3"]) == 0
    with Image.open(tmp_path / "synchronous-0.png") as image:
        told = json.loads(image.text["asyndm"])
    assert told["guidance"] == "pag" and told["rows"] == 6 and 2 < told["w_eff"] < 4
    report = json.loads((tmp_path / "verdicts.json").read_text())
    assert report["measured"]["synchronous"] == [{"rows": 6, "w_eff": told["w_eff"]}]


def test_every_field_is_an_option(fake, tmp_path):
    chosen = Settings(
        *(
            True,
            "square:0.2",
            "piecewise",
            0.7,
            1.5,
            "fixed",
            "background",
            "paper",
            0.5,
            0.4,
            True,
        ),
        *(0.1, 0.9),
    )
    argv = ["generate", PROMPT, "--out", str(tmp_path), "--steps", "9", "--coupling", "0.5"]
    for field in dataclasses.fields(Settings):
        value = getattr(chosen, field.name)
        flag = "--" + field.name.replace("_", "-")
        if field.name not in ("enabled", *WEBUI_ONLY):
            argv += [flag] if value is True else [flag, str(value)]
    assert cli.main(argv) == 0
    request, settings, _ = fake.asked[0]
    assert settings == chosen
    assert request == Request(PROMPT, steps=9, coupling=0.5)


def test_size_0_keeps_the_pixels_of_the_model(fake, tmp_path):
    assert cli.main(["generate", PROMPT, "--out", str(tmp_path), "--size", "0"]) == 0
    with Image.open(tmp_path / "asyndm-0.png") as image:
        assert image.size == (64, 64)


def test_a_mask_file_steers(fake, tmp_path):
    mask = tmp_path / "mask.png"
    Image.new("L", (32, 32), "white").save(mask)
    assert cli.main(["generate", PROMPT, "--out", str(tmp_path), "--mask", str(mask)]) == 0
    request, settings, _ = fake.asked[0]
    assert settings.mask_source == "given" and request.painted.shape == (32, 32)


@pytest.mark.parametrize(
    ("more", "begins"),
    [
        (["--steps", "0"], "asyndm: steps: 0 is out of range"),
        (["--curvature", "3"], "asyndm: curvature: 3"),
        (["--objects", "circle:7"], "asyndm: objects: curvature of 'circle'"),
        (["--methods", "magic"], "asyndm: methods: 'magic' is unknown"),
        (["--mask", "no-such.png"], "asyndm: mask: no-such.png is not a picture"),
        (["--seed", "x"], "python -m asyndm generate: argument --seed"),
        (["--rule", "x"], "python -m asyndm generate: argument --rule"),
        (["--size", "-3"], "asyndm: size: -3 is out of range"),
    ],
)
def test_bad_input_is_one_line_and_status_2(fake, tmp_path, capsys, more, begins):
    try:
        status = cli.main(["generate", PROMPT, "--out", str(tmp_path / "x"), *more])
    except SystemExit as stop:
        status = stop.code
    error = capsys.readouterr().err
    assert status == 2
    assert error.startswith(begins) and len(error.splitlines()) == 1


@pytest.mark.parametrize(
    ("prompt", "word"), [("", "empty"), ("a red dragon", "'dragon'"), ("red", "object")]
)
def test_a_prompt_the_model_cannot_read_is_one_line(fake, tmp_path, capsys, prompt, word):
    assert cli.main(["generate", prompt, "--out", str(tmp_path)]) == 2
    error = capsys.readouterr().err
    assert error.startswith("asyndm: prompt: ") and word in error and len(error.splitlines()) == 1


def test_an_out_that_is_a_file_is_one_line(fake, tmp_path, capsys):
    (tmp_path / "x").write_text("")
    assert cli.main(["generate", PROMPT, "--out", str(tmp_path / "x")]) == 2
    assert capsys.readouterr().err.startswith("asyndm: out: ")


def test_missing_weights_are_one_line(tmp_path, capsys):
    argv = ["generate", PROMPT, "--out", str(tmp_path), "--weights", str(tmp_path / "none")]
    assert cli.main(argv) == 2
    error = capsys.readouterr().err
    assert error.startswith("asyndm: weights: ") and len(error.splitlines()) == 1


def test_weights_of_another_model_are_one_line(tmp_path, capsys):
    save_file({"unet.conv_in.weight": torch.zeros(1)}, str(tmp_path / "other.safetensors"))
    (tmp_path / "text.safetensors").write_text("no tensors")
    for name in ("other", "text"):
        weights = tmp_path / f"{name}.safetensors"
        argv = ["generate", PROMPT, "--out", str(tmp_path), "--weights", str(weights)]
        assert cli.main(argv) == 2
        error = capsys.readouterr().err
        assert error.startswith(f"asyndm: weights: {weights} do not fit")
        assert len(error.splitlines()) == 1


@pytest.mark.parametrize("argv", [["studio"], ["bench", "overhead"], ["bench", "scenes"]])
def test_a_missing_extra_is_one_line(monkeypatch, capsys, argv):
    def absent(name):
        raise ModuleNotFoundError(f"No module named 'somelib' for {name}", name="somelib")

    monkeypatch.setattr(cli.importlib, "import_module", absent)
    assert cli.main(argv) == 2
    error = capsys.readouterr().err
    assert error == f"asyndm: somelib is not installed; run: pip install 'asyndm[{argv[0]}]'\n"


def test_a_device_that_is_not_there_is_one_line(capsys):
    assert cli.main(["bench", "overhead", "--tiny", "--device", "cuda:99"]) == 2
    error = capsys.readouterr().err
    assert error.startswith("--device: 'cuda:99' cannot be used") and len(error.splitlines()) == 1


@pytest.mark.parametrize("argv", [[], ["bench"], ["paint"], ["bench", "speed"]])
def test_an_unknown_command_is_one_line(capsys, argv):
    with pytest.raises(SystemExit) as stop:
        cli.main(argv)
    assert stop.value.code == 2 and len(capsys.readouterr().err.splitlines()) == 1


def test_the_module_runs_as_a_program():
    done = subprocess.run(
        [sys.executable, "-m", "asyndm", "generate", "--help"], capture_output=True, text=True
    )
    assert done.returncode == 0 and "--curvature" in done.stdout


def test_the_real_pipeline_from_the_command_line(monkeypatch, tmp_path, capsys):
    """Untrained weights: everything but the pictures is real."""
    random = ScenePipeline.random()
    monkeypatch.setattr(ScenePipeline, "load", classmethod(lambda cls, path=None: random))
    argv = ["generate", PROMPT, "--out", str(tmp_path), "--steps", "2", "--batch", "2"]
    assert cli.main(argv) == 0
    assert (tmp_path / "asyndm-1.png").exists() and (tmp_path / "film.png").exists()
