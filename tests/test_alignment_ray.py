"""bench alignment --ray: two local workers, one of them killed, lose and repeat nothing."""

from __future__ import annotations

import json
import os
import signal
import threading
import time

import pytest
from alignment_toys import bench

pytest.importorskip("ray", reason="pip install 'asyndm[ray]'")
pytestmark = pytest.mark.slow


def keys_of(folder):
    return [json.loads(line)["key"] for path in folder.glob("records/*") for line in open(path)]


def pictures(folder):
    return {path.name: path.read_bytes() for path in folder.glob("images/*/*.png")}


def test_one_worker_is_killed(tmp_path, weights, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", os.getcwd())
    args = ["--limit", 24, "--steps", 4, "--batch", 4, "--backend", f"embedded:{weights}"]
    killed = []

    def kill():
        while not killed:
            time.sleep(0.05)
            for path in (tmp_path / "two").glob("records/*.jsonl"):
                pid = int(path.stem.split("-")[-2])
                if pid != os.getpid():
                    os.kill(pid, signal.SIGKILL)
                    killed.append(pid)
                    return

    watcher = threading.Thread(target=kill, daemon=True)
    watcher.start()
    assert bench("run", "--folder", tmp_path / "two", "--ray", 2, *args) == 0
    assert killed
    keys = keys_of(tmp_path / "two")
    assert len(keys) == len(set(keys)) == 72
    assert bench("run", "--folder", tmp_path / "one", *args) == 0
    assert pictures(tmp_path / "two") == pictures(tmp_path / "one")


def test_a_workers_error_is_one_line(tmp_path, weights, monkeypatch, capsys):
    monkeypatch.setenv("PYTHONPATH", os.getcwd())
    args = ["--limit", 1, "--steps", 1, "--backend", f"embedded:{weights}", "--methods", "sync"]
    assert bench("run", "--folder", tmp_path, *args) == 0
    assert bench("run", "--folder", tmp_path, "--ray", 0, *args) == 2
    assert "ray" in capsys.readouterr().err.splitlines()[-1]
