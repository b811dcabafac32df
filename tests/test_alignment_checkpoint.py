"""bench alignment on checkpoints of diffusers, and on pictures that are finished."""

from __future__ import annotations

import json

import numpy as np
import pytest
import tiny_checkpoint
import torch
from alignment_toys import bench
from PIL import Image

from asyndm.bench.alignment.plan import Plan
from asyndm.bench.alignment.store import Store

METHODS = ("sync", "concave:k=.9", "asyndm:k=.9", "pag", "asyndm+apg:k=.9", "fixed", "cfg++")


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    return tiny_checkpoint.save(tmp_path_factory.mktemp("sd1"))


def run(folder, checkpoint, *more):
    where = ["--folder", folder, "--backend", f"diffusers:{checkpoint}", "--device", "cpu"]
    what = ["--prompts", "geneval", "--limit", 1, "--steps", 4, "--cfg", 4]
    return bench("run", *where, *what, *more)


@pytest.fixture(scope="module")
def drawn(checkpoint, tmp_path_factory):
    folder = tmp_path_factory.mktemp("drawn")
    assert run(folder, checkpoint, "--methods", *METHODS) == 0
    plan, store = Plan.load(folder), Store(folder)
    store.refresh()
    return folder, plan, store


def test_methods_are_told_apart_by_their_rows_and_pictures(drawn):
    _, plan, store = drawn
    keys = {m.text: plan.keys(m)[0][0] for m in plan.methods}
    rows = {text: store.records[key]["rows"] for text, key in keys.items()}
    assert rows == {"sync": 8, "concave:k=.9": 8, "asyndm:k=.9": 8, "pag": 12,
                    "asyndm+apg:k=.9": 8, "fixed": 16, "cfg++": 8}  # fmt: skip
    assert len({store.picture(key).read_bytes() for key in keys.values()}) == len(METHODS)
    assert store.mask(keys["asyndm:k=.9"]).exists()
    assert store.records[keys["sync"]]["w_eff"] == 4


def test_the_synchronous_picture_is_the_pipelines_own(drawn, checkpoint):
    import diffusers

    _, plan, store = drawn
    record = store.records[plan.keys(plan.methods[0])[0][0]]
    pipe = diffusers.StableDiffusionPipeline.from_pretrained(checkpoint, safety_checker=None)
    pipe.scheduler = diffusers.DDIMScheduler.from_config(pipe.scheduler.config)
    pipe.set_progress_bar_config(disable=True)
    image = pipe(
        record["prompt"], generator=torch.Generator().manual_seed(record["seed"]), eta=1.0,
        num_inference_steps=4, guidance_scale=4,
    ).images[0]  # fmt: skip
    with Image.open(store.picture(record["key"])) as mine:
        assert np.abs(np.asarray(mine, int) - np.asarray(image, int)).max() <= 1


def test_what_is_drawn_is_scored_and_reported(drawn, tmp_path):
    folder = drawn[0]
    assert bench("score", "--folder", folder, "--scores", "contrast") == 0
    assert bench("report", "--folder", folder, "--export", tmp_path / "export") == 0
    report = json.loads((folder / "report.json").read_text())
    assert report["asked"] == list(METHODS) and report["model"]["checkpoint"] == "model"
    assert "cfg++" in " ".join(report["methods"][-1]["deviations"])
    # finished pictures are judged as those that were drawn
    again = ["--backend", f"images:{tmp_path / 'export'}", "--prompts", "geneval", "--limit", 1,
             "--methods", "sync", "pag", "cfg++", "--scores", "contrast"]  # fmt: skip
    assert bench("--folder", tmp_path / "again", *again) == 0
    assert " steps, guidance" in (folder / "report.html").read_text()
    assert " steps, guidance" not in (tmp_path / "again" / "report.html").read_text()
    (exported,) = (tmp_path / "export" / "pag").glob("*/metadata.jsonl")
    metadata = json.loads(exported.read_text())
    assert metadata == Plan.load(folder).prompts[0].asks and metadata["include"]
    score = report["scores"][0]["means"]
    second = json.loads((tmp_path / "again" / "report.json").read_text())["scores"][0]["means"]
    assert {name: second[name]["value"] for name in second} == {
        name: score[name]["value"] for name in ("sync", "pag", "cfg++")
    }


def test_offloading_changes_no_picture(drawn, checkpoint, tmp_path):
    pytest.importorskip("accelerate", reason="pip install 'asyndm[bench]'")
    assert run(tmp_path, checkpoint, "--offload", "--methods", "asyndm:k=.9") == 0
    (path,) = (one for one in tmp_path.glob("images/*/*.png") if ".mask" not in one.name)
    mine, own = (np.asarray(Image.open(each), int) for each in (path, drawn[2].picture(path.stem)))
    assert abs(mine - own).max() <= 1


@pytest.mark.parametrize(
    ("more", "says"),
    [
        (["--rule", "magic"], "rule: 'magic' is unknown"),
        (["--schedule", "karras"], "has no 'karras'"),
        (["--methods", "oracle"], "oracle is the embedded model's"),
        (["--device", "moon"], "device: 'moon' cannot be used"),
        (["--backend", "diffusers:/no/such"], "cannot be loaded"),
        (["--backend", "images:/no/such"], "no such folder"),
        (["--precision", "int8"], "precision"),
    ],
)
def test_what_cannot_be_drawn_is_one_line(checkpoint, tmp_path, capsys, more, says):
    assert run(tmp_path, checkpoint, *more) == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert says in error and not (tmp_path / "images").exists()


def test_finished_pictures_that_are_missing_are_named(tmp_path, capsys):
    (tmp_path / "in" / "mine").mkdir(parents=True)
    args = ["run", "--folder", tmp_path / "out", "--backend", f"images:{tmp_path / 'in'}",
            "--prompts", "animals40"]  # fmt: skip
    assert bench(*args, "--methods", "yours") == 2
    assert "there are mine" in capsys.readouterr().err
    assert bench(*args, "--methods", "mine") == 2
    assert "0000.png is no picture" in capsys.readouterr().err.splitlines()[-1]
    assert bench(*args, "--methods", "mine", "--cfg", "3") == 2
    for more in (["--match", "rows"], ["--steps", 9], ["--precision", "float16"]):
        assert bench(*args, "--methods", "mine", *more) == 2
        assert "the pictures are finished" in capsys.readouterr().err


# --- other families, end to end ---


@pytest.mark.parametrize(
    ("family", "guided", "rows"),
    [("2.1", "pag", 12), ("XL", "pag", 12), ("3.5", "apg", 8), ("Flux", "concave:k=.9", 4)],
)
def test_other_families_are_drawn_scored_and_reported(family, guided, rows, tmp_path, capsys):
    """Stable Diffusion 2.1 predicts v; it and 3.5 are drawn in half precision."""
    if family in ("3.5", "Flux"):
        diffusers = pytest.importorskip("diffusers")
        if not hasattr(diffusers, "FluxPipeline"):
            pytest.skip("this diffusers has no Flux")
        saved = tiny_checkpoint.save_flow(tmp_path / "saved", flux=family == "Flux")
    else:
        saved = tiny_checkpoint.save(tmp_path / "saved", xl=family == "XL", two=family == "2.1")
    folder, methods = tmp_path / "out", ("sync", "asyndm:k=.9", guided)
    more = ["--size", "32x32", "--match", "rows", "--methods", *methods]
    if family in ("2.1", "3.5"):
        more += ["--precision", "bfloat16"]
    assert run(folder, saved, *more) == 0
    plan, store = Plan.load(folder), Store(folder)
    store.refresh()
    each = 4 if family == "Flux" else 8
    keys = {m.text: plan.keys(m)[0][0] for m in plan.methods}
    assert {text: store.records[key]["rows"] for text, key in keys.items()} == {
        "sync": each, "asyndm:k=.9": each, guided: rows,
    }  # fmt: skip
    assert len({store.picture(key).read_bytes() for key in keys.values()}) == 3
    companion = plan.companions[guided]["rows"].text
    assert companion == ("cfg:steps=6" if rows == 12 else "cfg")
    assert bench("score", "--folder", folder, "--scores", "contrast") == 0
    assert bench("report", "--folder", folder) == 0
    report = json.loads((folder / "report.json").read_text())
    assert report["asked"] == list(methods) and (folder / "report.html").exists()
    if family == "Flux":
        assert run(tmp_path / "no", saved, "--methods", "sync", "apg") == 2
        assert run(tmp_path / "no", saved, "--rule", "ddpm") == 2
        errors = capsys.readouterr().err
        assert "Flux is drawn without a prediction without the prompt" in errors
        assert "rule: 'ddpm' has no form with this model; choose of euler" in errors
