"""One option chooses the small world everywhere; what was made of the first world stays its own."""

from __future__ import annotations

import argparse
import json
import re
from pathlib import Path

import pytest
from fake_scenes import FakePipeline
from PIL import Image

from asyndm import cli
from asyndm.bench import context, distortion, norms, repaint, scenes
from asyndm.bench.alignment import command as alignment
from asyndm.bench.alignment.backends import of_world
from asyndm.bench.tune import command as tune
from asyndm.core.profile import PROFILES
from asyndm.core.settings import Settings, SettingsError
from asyndm.scenes import chosen, train
from asyndm.scenes.edit import example
from asyndm.scenes.model import TRAINED
from asyndm.scenes.pipeline import Request, ScenePipeline
from asyndm.scenes.world import WITH_WEIGHTS

ROOT = Path(__file__).resolve().parents[1]
PROMPT = "two red circles and a blue square"
BENCHES = (scenes, repaint, distortion, norms, context)


def options(module, *argv):
    parser = argparse.ArgumentParser()
    module.add_arguments(parser)
    return parser.parse_args([*map(str, argv)])


@pytest.fixture
def opened(monkeypatch):
    """What was opened; every model is an untrained one that says the world it stands for."""
    made = []

    def load(cls, path=None):
        pipeline = ScenePipeline.random()
        pipeline.model.world = str(path) if str(path) in TRAINED else "shadows"
        made.append(str(path))
        return pipeline

    monkeypatch.setattr(ScenePipeline, "load", classmethod(load))
    return made


ASKED = [
    ([], "auroras"), (["--world", "shadows"], "shadows"), (["--world", "auroras"], "auroras"),
    (["--weights", "shadows"], "shadows"), (["--weights", "w.safetensors"], "w.safetensors"),
    (["--weights", "w.safetensors", "--world", "shadows"], "w.safetensors"),
]  # fmt: skip


@pytest.mark.parametrize(("argv", "file"), ASKED)
def test_studio_generate_and_benches_choose_alike(argv, file, opened, tmp_path, monkeypatch):
    pytest.importorskip("gradio", reason="the page needs the extra 'studio'")
    from asyndm.page import studio

    shown = []
    monkeypatch.setattr(studio, "run", lambda pipeline, args: shown.append(pipeline.world) or 0)
    assert cli.main(["studio", *argv]) == 0
    short = ["--steps", "1", "--methods", "synchronous", "--out", str(tmp_path)]
    assert cli.main(["generate", PROMPT, *short, *argv]) == 0
    assert opened == [file, file]
    for bench in BENCHES:
        assert chosen.weights_of(options(bench, *argv)) == file


def test_what_is_loaded_without_a_word_is_the_default_world():
    assert ScenePipeline.load().world == "auroras"
    assert ScenePipeline.load("shadows").world == "shadows" and {*WITH_WEIGHTS} == {*TRAINED}


def test_weights_go_before_a_world_and_say_so(opened, capsys):
    args = options(repaint, "--weights", "auroras", "--world", "shadows")
    assert chosen.open_chosen(args).world == "auroras"
    (line,) = capsys.readouterr().err.splitlines()
    assert line.endswith("world: auroras are weights of auroras, so --world shadows is not read.")
    chosen.open_chosen(options(repaint, "--weights", "auroras", "--world", "auroras"))
    chosen.open_chosen(options(repaint, "--world", "shadows"))
    assert capsys.readouterr().err == ""


def test_files_say_the_world_and_the_weights_they_were_made_with(tmp_path):
    for world in WITH_WEIGHTS:
        out = tmp_path / world
        argv = ["generate", PROMPT, "--out", str(out), "--steps", "1", "--world", world]
        assert cli.main([*argv, "--methods", "synchronous"]) == 0
        with Image.open(out / "synchronous-0.png") as image:
            told = json.loads(image.text["asyndm"])
        assert told["world"] == world
        digest = ScenePipeline.load(world).digest
        assert told["weights"] == digest and len(digest) == 16
        assert json.loads((out / "verdicts.json").read_text())["asked"]["world"] == world


def test_parameters_of_before_restore_their_picture_with_shadows(tmp_path):
    """What 0.2.0 wrote names no world; its options and --world shadows give its pixels again."""
    kept = ScenePipeline.load(TRAINED["shadows"])
    request = Request(PROMPT, steps=2, seed=7)
    (before,) = kept.generate(request, Settings(), ("synchronous",)).images["synchronous"]
    argv = ["generate", PROMPT, "--steps", "2", "--seed", "7", "--methods", "synchronous"]
    same = []
    for more in (["--world", "shadows"], []):
        out = tmp_path / str(len(more))
        assert cli.main([*argv, "--out", str(out), "--size", "0", *more]) == 0
        with Image.open(out / "synchronous-0.png") as image:
            same.append(image.convert("RGB").tobytes() == before.tobytes())
    assert same == [True, False]


def test_a_profile_of_the_other_world_is_told(tmp_path, monkeypatch):
    monkeypatch.setattr(PROFILES, "folder", tmp_path)
    mine, other = ScenePipeline.load(), ScenePipeline.load("shadows")
    profile = {"checkpoint": other.digest, "knots": [[-6, -6.1], [4, 3.2]]}
    (tmp_path / "old.json").write_text(json.dumps(profile))
    settings = Settings(enabled=True, curve="learned", profile="old")
    for pipeline, told in ((mine, 1), (other, 0)):
        result = pipeline.generate(Request(PROMPT, steps=1), settings, ("synchronous", "asyndm"))
        lines = [line for line in result.notes if line.startswith("profile: ")]
        assert len(lines) == told and all("of auroras" in line for line in lines)


def test_results_of_before_go_on_with_shadows_and_mix_with_no_other(tmp_path, opened):
    lines = tmp_path / "old.jsonl"
    setup = {"set": "first", "steps": 1, "cfg": 2.5, "strength": 1.0, "precision": "float32"}
    lines.write_text(json.dumps({"arm": "x", "picture": 0, "setup": setup}) + "\n")
    argv = ["--pictures", 1, "--steps", 1, "--lines", lines, "--arms", "plain inpainting"]
    with pytest.raises(SettingsError, match="is of another weights; name a new file"):
        repaint.main(options(repaint, *argv))
    assert repaint.main(options(repaint, *argv, "--world", "shadows")) == 0
    folder = tmp_path / "scenes"
    argv = ["--folder", folder, "--prompts", 1, "--seeds", 1, "--steps", 1, "--methods"]
    argv += ["synchronous"]
    assert scenes.main(options(scenes, *argv, "--world", "shadows")) == 0
    assert "weights" not in json.loads((folder / "setup.json").read_text())
    with pytest.raises(SettingsError, match="holds results of another weights; name"):
        scenes.main(options(scenes, *argv))
    assert scenes.main(options(scenes, *argv[:1], tmp_path / "new", *argv[2:])) == 0
    with pytest.raises(SettingsError, match="holds results of another weights; name"):
        old = [*argv[:1], tmp_path / "new", *argv[2:]]
        scenes.main(options(scenes, *old, "--world", "shadows"))


def test_a_world_of_a_comparison_is_kept_by_name():
    assert of_world("embedded", None) == "embedded:auroras"
    assert of_world("embedded", "shadows") == of_world("embedded:shadows", "shadows")
    assert of_world("embedded:w.safetensors", None) == "embedded:w.safetensors"
    for text, says in (
        ("embedded:w.safetensors", "names w.safetensors itself"),
        ("diffusers:sd21", "diffusers does not read it"),
    ):
        with pytest.raises(SettingsError, match=f"^world: the backend .*{says}; leave it out"):
            of_world(text, "shadows")
    assert options(alignment, "--world", "shadows").world == "shadows"


def test_a_comparison_of_before_goes_on_with_its_own_world(tmp_path):
    """Its plan says no more than "embedded"; nothing is drawn in the other world beside it."""
    argv = ["run", "--folder", tmp_path, "--limit", 1, "--steps", 1, "--methods", "sync"]
    alignment.main(options(alignment, *argv, "--world", "shadows"))
    plan = json.loads((tmp_path / "plan.json").read_text())
    assert plan["backend"] == "embedded:shadows"
    (tmp_path / "plan.json").write_text(json.dumps({**plan, "backend": "embedded"}))
    with pytest.raises(SettingsError, match="^folder: .* drawn with other weights; .*shadows"):
        alignment.main(options(alignment, *argv))
    assert len(list(tmp_path.rglob("*.png"))) == 1
    alignment.main(options(alignment, *argv, "--world", "shadows"))
    alignment.main(options(alignment, *argv))  # named, it may hold both
    assert len(list(tmp_path.rglob("*.png"))) == 2


def test_a_tuning_of_before_is_of_shadows(tmp_path):
    values = tune._values(tmp_path, {}, False)
    assert values["backend"] == "embedded:auroras"
    kept = {name: values[name] for name in (*tune._OF_RUN, *tune._OWN)}
    (tmp_path / "tune-plan.json").write_text(json.dumps({**kept, "backend": "embedded"}))
    assert tune._values(tmp_path, {}, False)["backend"] == "embedded:shadows"
    with pytest.raises(SettingsError, match="begun with embedded:shadows, not embedded:auroras"):
        tune._values(tmp_path, {"backend": of_world("embedded", None)}, False)


@pytest.mark.parametrize(
    ("argv", "says"),
    [(["--world", "beams"], "world: no weights of beams lie here; name a file by --weights."),
     (["--world", "shadows", "--checkpoint", "x"], "world: it is of the embedded model;"),
     (["--weights", "auroras", "--checkpoint", "x"], "weights: it is of the embedded model;")],
)  # fmt: skip
def test_a_map_that_cannot_be_of_that_world_is_one_line(argv, says, capsys):
    assert cli.main(["bench", "context", *argv]) == 2
    error = capsys.readouterr().err
    assert says in error and error.count("\n") == 1


def test_scenes_of_a_world_may_be_shown_to_the_network_of_another(opened):
    args = options(context, "--weights", "auroras", "--world", "shadows")
    args.source = "rendered"
    subject, setup = context._subject(args)
    assert subject.pipeline.world == "auroras" and setup["world"] == "shadows"
    assert context._subject(options(context))[1]["world"] == "auroras"


def test_a_world_without_weights_here_is_not_written_over_another(monkeypatch, capsys, tmp_path):
    monkeypatch.setattr("sys.argv", ["train", "--folder", str(tmp_path), "--world", "veils"])
    with pytest.raises(SystemExit):
        train.main()
    assert "no weights of veils lie in the package" in capsys.readouterr().err


def test_the_studio_names_its_world_and_opens_with_its_example():
    gr = pytest.importorskip("gradio", reason="the page needs the extra 'studio'")
    from asyndm.page import studio

    for world in WITH_WEIGHTS:
        pipeline = FakePipeline()
        pipeline.world = world
        page = studio.build_page(pipeline)
        blocks = [b for b in page.blocks.values() if isinstance(b, gr.HTML)]
        assert any(f"<b>{world}</b>" in str(block.value) for block in blocks)
        texts = [b.value for b in page.blocks.values() if isinstance(b, gr.Textbox)]
        assert example(world).request.prompt in texts
    assert example("auroras").request != example("shadows").request


COMMAND = re.compile(r"python -m asyndm bench\s+(\w+)([^`;)]*)")
OF_THE_MODEL = {"scenes", "repaint", "distortion", "context", "norms", "alignment"}


def test_every_command_behind_a_figure_names_its_world():
    text = (ROOT / "README.md").read_text("utf-8").split("## What is measured\n")[1]
    found = [m for m in COMMAND.finditer(text) if m[1] in OF_THE_MODEL]
    assert len(found) >= 9
    for match in found:
        named = re.search(r"--world \w+|--weights \w+|embedded:\w+|--checkpoint", match[2])
        assert named, match[0]
