"""bench tune: SIGKILL at random moments, and several processes, lose and repeat nothing."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from alignment_toys import ROOT

pytest.importorskip("optuna", reason="pip install 'asyndm[bench]'")
pytestmark = pytest.mark.slow


def spawn(folder, weights, *arms):
    env = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    args = ["run", "--folder", folder, "--backend", f"embedded:{weights}", "--limit", 9,
            "--trials", 3, "--steps", 2, "--batch", 3,
            "--arms", *(arms or ("learned", "cfg"))]  # fmt: skip
    command = [sys.executable, "-m", "asyndm", "bench", "tune", *map(str, args)]
    return subprocess.Popen(command, env=env, cwd=ROOT, stderr=subprocess.DEVNULL,
                            stdout=subprocess.DEVNULL)  # fmt: skip


def check(folder):
    files = list(folder.glob("records/*"))
    keys = [json.loads(line)["key"] for path in files for line in open(path)]
    pictures = [p for p in folder.glob("images/*/*.png") if not p.name.endswith(".mask.png")]
    assert len(keys) == len(set(keys)) == len(pictures)
    arms = json.loads((folder / "tune.json").read_text())["arms"]
    methods = set()
    for arm in arms.values():
        assert arm["rows"] >= 3 * 9 * 4 == sum(one["rows"] for one in arm["trials"][:3])
        assert all(one["prompts"] == 9 or one["given_up"] for one in arm["trials"])
        methods |= {one["method"] for one in arm["trials"]}
    assert len(keys) <= 9 * (1 + len(methods))
    return len(files)


def test_three_kills(tmp_path, weights):
    folder, rng = tmp_path / "t", np.random.default_rng()
    for _ in range(3):
        there = len(list(folder.glob("records/*")))
        process = spawn(folder, weights)
        while len(list(folder.glob("records/*"))) <= there and process.poll() is None:
            time.sleep(0.02)
        time.sleep(rng.uniform(0, 1.0))
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert spawn(folder, weights).wait() == 0
    check(folder)


def test_two_processes(tmp_path, weights):
    both = [spawn(tmp_path / "t", weights) for _ in range(2)]
    assert [process.wait() for process in both] == [0, 0]
    assert check(tmp_path / "t") == 2


def test_two_processes_of_the_adaptive_arm(tmp_path, weights):
    """Their trials have pictures in common: each is drawn and looked at once."""
    folder = tmp_path / "t"
    both = [spawn(folder, weights, "adaptive") for _ in range(2)]
    assert [process.wait() for process in both] == [0, 0]
    for kind in ("records", "glimpses"):
        keys = [json.loads(line)["key"] for path in folder.glob(f"{kind}/*") for line in open(path)]
        assert len(keys) == len(set(keys)) >= 9
    arm = json.loads((folder / "tune.json").read_text())["arms"]["adaptive"]
    assert all(one["rows"] == one["prompts"] * (4 + 4) for one in arm["trials"])
    assert arm["rows"] >= 3 * 9 * 4
