"""docs/alignment.md: every command of it is run, with tiny weights in the folders it names."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path

import pytest
import tiny_checkpoint
import tiny_scores
from alignment_toys import ROOT, bench
from PIL import Image

from asyndm.bench.alignment import command, recipes
from asyndm.bench.alignment.scores import SCORES

PAGE = (ROOT / "docs" / "alignment.md").read_text("utf-8")
COMMANDS = re.findall(r"^python -m asyndm bench alignment (.*)$", PAGE, re.MULTILINE)
FAST = ["--limit", "1", "--seeds", "1", "--steps", "2"]


def test_the_page_names_what_there_is():
    for name in (*SCORES, *recipes.names(), *command.matching.KINDS[1:]):
        if name not in ("right", "objects", "saturation", "contrast", "noise"):
            assert re.search(rf"\b{re.escape(name)}\b", PAGE, re.IGNORECASE), name
    assert len(COMMANDS) == 11


@pytest.mark.slow
def test_every_command_runs(tmp_path, monkeypatch, request):
    pytest.importorskip("openai")
    pytest.importorskip("torchmetrics")
    judge = pytest.importorskip("test_alignment_judge").Server()
    monkeypatch.chdir(tmp_path)
    tiny_checkpoint.save(tmp_path / "made").rename(tmp_path / "sd21")
    weights = tmp_path / "W"
    weights.mkdir()
    (tmp_path / "sd21").rename(weights / "sd21")
    for name in ("clipscore", "colours"):
        tiny_scores.clip(weights / name)
    tiny_scores.image_reward(weights / "imagereward")
    tiny_scores.bert(weights / "bertscore")
    tiny_scores.mask2former(weights / "detector")
    Path("prompts.txt").write_text("a cat\n")
    for method in ("mine", "theirs"):
        for number in range(553):
            path = Path("FOLDER") / method / f"{number:05}" / "samples" / "0000.png"
            path.parent.mkdir(parents=True)
            Image.new("RGB", (16, 16), "red").save(path)
    for line in COMMANDS:
        args = shlex.split(line.replace("http://127.0.0.1:8000/v1", judge.url))
        drawn = args[0] not in ("score", "report")
        if "webui:" in line or "--scores fid" in line:
            continue  # tests/hosts/test_bench_webui.py; tests/test_alignment_sets.py
        if drawn:
            args += FAST if "images:" not in line else FAST[:4]
        if "diffusers:" in line:
            args += ["--device", "cpu", "--precision", "float32"]
        if "cuda" in args:
            args[args.index("cuda")] = "cpu"
        assert bench(*args) == 0, line
    report = json.loads(Path("out/paper/report.json").read_text())
    assert {one["name"] for one in report["scores"]} == {
        "imagereward", "clipscore", "bertscore", "qwenscore", "vqascore",
    }  # fmt: skip
    assert report["chosen"]["score"] == "imagereward" and not report["named_at"]
    assert report["same_noise"] and report["setup"]["cfg"] == 5
