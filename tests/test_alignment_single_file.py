"""bench alignment on checkpoints that are one file, in the layout of the original code."""

from __future__ import annotations

import itertools
import json

import numpy as np
import pytest
import tiny_checkpoint
import tiny_single_file
import torch
from alignment_toys import bench
from PIL import Image

from asyndm.bench.alignment.plan import Plan
from asyndm.bench.alignment.store import Store
from asyndm.pipelines import load_pipeline

diffusers = pytest.importorskip("diffusers", reason="pip install 'asyndm[bench]'")
pytest.importorskip("accelerate", reason="pip install 'asyndm[bench]'")
if diffusers.__version__.startswith("0.27."):
    pytest.skip("this diffusers reads no file by a folder", allow_module_level=True)
FAMILIES = {"1.5": {}, "2.1": {"two": True}, "XL": {"xl": True, "second": 32}}
METHODS = ("sync", "asyndm:k=.9", "pag")


def run(folder, checkpoint, *more):
    return bench(
        "run", "--folder", folder, "--backend", f"diffusers:{checkpoint}", "--device", "cpu",
        "--prompts", "animals40", "--limit", 1, "--steps", 3, "--cfg", 4, "--methods", *METHODS,
        *more,
    )  # fmt: skip


def drawn(folder):
    """(plan, pictures, rows) by method."""
    plan, store = Plan.load(folder), Store(folder)
    store.refresh()
    keys = {one.text: plan.keys(one)[0][0] for one in plan.methods}
    pictures = {t: np.asarray(Image.open(store.picture(key)), int) for t, key in keys.items()}
    return plan, pictures, {text: store.records[key]["rows"] for text, key in keys.items()}


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """Family -> (folder of diffusers, file with its weights, folder without weights)."""
    made = {}
    for family, kinds in FAMILIES.items():
        folder = tmp_path_factory.mktemp("files")
        model = tiny_checkpoint.save(folder / "saved", **kinds)
        file = tiny_single_file.save(model, folder / "v1.5-tiny.safetensors")
        made[family] = model, file, tiny_single_file.configuration(model, folder / "told")
    return made


@pytest.mark.parametrize("family", FAMILIES)
def test_a_files_weights_are_the_folders(family, saved):
    model, file, told = saved[family]
    one, two = load_pipeline(model), load_pipeline(file, config=told)
    assert type(one) is type(two) and one.components.keys() == two.components.keys()
    for name, part in one.components.items():
        if isinstance(part, torch.nn.Module):
            mine, other = part.state_dict(), two.components[name].state_dict()
            assert mine.keys() == other.keys()
            assert all(torch.equal(mine[key], other[key]) for key in mine), name
        elif hasattr(part, "config"):
            assert {**part.config} == {**two.components[name].config}


@pytest.mark.parametrize("family", FAMILIES)
def test_a_file_draws_what_a_folder_of_the_same_weights_draws(family, saved, tmp_path):
    model, file, told = saved[family]
    assert not list(told.rglob("*.safetensors"))
    assert run(tmp_path / "folder", model) == 0
    assert run(tmp_path / "file", file, "--config", told) == 0
    (_, pictures, rows), (plan, mine, counted) = (
        drawn(tmp_path / name) for name in ("folder", "file")
    )
    for text, picture in mine.items():  # where weights lie in memory may change a last bit
        assert abs(picture - pictures[text]).max() <= 1
    for one, two in itertools.combinations(mine.values(), 2):
        assert abs(one - two).max() > 3
    assert counted == rows == {"sync": 6, "asyndm:k=.9": 6, "pag": 9}
    assert plan.identity["checkpoint"] == file.name and plan.identity["config"]
    if family != "2.1":
        return  # one is enough
    assert bench("score", "--folder", tmp_path / "file", "--scores", "contrast") == 0
    assert bench("report", "--folder", tmp_path / "file") == 0
    report = json.loads((tmp_path / "file" / "report.json").read_text())
    assert report["asked"] == list(METHODS)


def test_the_configuration_may_lie_beside_the_file_and_counts(saved, tmp_path):
    """A file does not say what its network predicts."""
    _, file, told = saved["1.5"]
    beside = tmp_path / "w" / file.name
    beside.parent.mkdir()
    state = tiny_single_file._weights(file.parent)
    torch.save({"state_dict": state}, beside.with_suffix(".ckpt"))  # the older kind, by the way
    tiny_single_file.configuration(told, beside.with_suffix(""))
    one = ["--methods", "sync"]
    assert run(tmp_path / "beside", beside.with_suffix(".ckpt"), *one) == 0
    assert run(tmp_path / "told", file, "--config", told, *one) == 0
    far = [abs(drawn(tmp_path / "beside")[1]["sync"] - drawn(tmp_path / "told")[1]["sync"]).max()]
    scheduler = beside.with_suffix("") / "scheduler" / "scheduler_config.json"
    values = json.loads(scheduler.read_text()) | {"prediction_type": "v_prediction"}
    scheduler.write_text(json.dumps(values))
    assert run(tmp_path / "beside", beside.with_suffix(".ckpt"), *one) == 0  # drawn anew
    far += [abs(drawn(tmp_path / "beside")[1]["sync"] - drawn(tmp_path / "told")[1]["sync"]).max()]
    assert far[0] <= 1 < 3 < far[1]


def test_what_is_no_checkpoint_is_one_line(saved, tmp_path, capsys):
    from safetensors.torch import load_file, save_file

    _, file, told = saved["1.5"]
    state, path = load_file(file), tmp_path / "a.safetensors"
    config = ["--config", told]

    def wrote(some):
        save_file(some, path)
        return path

    def without(start):
        return wrote({name: each for name, each in state.items() if not name.startswith(start)})

    lora = {"lora_unet_down_blocks_0_attn1_to_q.lora_down.weight": torch.zeros(4, 8)}
    (tmp_path / "empty").mkdir()
    cases = [
        (lambda: wrote(lora), config, "is a LoRA"),
        (lambda: without("first_stage_model."), config, "holds no autoencoder"),
        (lambda: without("cond_stage_model."), config, "holds no text encoder"),
        (lambda: without("model.diffusion_model.out.2.bias"), config, "lacks weights that"),
        (
            lambda: without("cond_stage_model.transformer.text_model.final"),
            config, "lacks weights that",
        ),
        (lambda: path.write_bytes(file.read_bytes()[:-1000]) and path, config, "not the whole"),
        (lambda: path.write_bytes(b"GIF89a" * 99) and path, config, "is no file of weights"),
        (lambda: file, [], "give --config FOLDER"),
        (lambda: file, ["--config", tmp_path], "has no model_index.json"),
        (lambda: file, ["--config", saved["XL"][2]], "cannot be loaded"),
        (lambda: saved["XL"][1], config, "cannot be loaded"),
        (lambda: saved["1.5"][0], config, "config: a folder has its own"),
        (lambda: tmp_path / "empty", [], "model_index.json"),
        (lambda: tmp_path / "nothing.safetensors", [], "there is no such file"),
    ]  # fmt: skip
    for made, more, says in cases:
        assert run(tmp_path / "out", made(), *more) == 2, says
        errors = capsys.readouterr().err.strip().splitlines()
        assert says in errors[-1] and len([e for e in errors if "asyndm:" in e]) == 1, errors
    told = tiny_single_file.configuration(told, tmp_path / "other")
    for content, says in (("{}", "names no pipeline"), ('{"_class_name": "X"}', "names 'X'")):
        (told / "model_index.json").write_text(content)
        assert run(tmp_path / "out", file, "--config", told) == 2
        assert says in capsys.readouterr().err
    assert not (tmp_path / "out" / "images").exists()


def test_an_older_diffusers_is_one_line(saved, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(diffusers, "__version__", "0.27.2")
    _, file, told = saved["1.5"]
    assert run(tmp_path, file, "--config", told) == 2
    assert "install diffusers 0.28 or later" in capsys.readouterr().err
