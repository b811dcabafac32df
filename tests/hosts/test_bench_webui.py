"""bench alignment draws by a WebUI's API: the host of these tests behind an HTTP server."""

from __future__ import annotations

import json
import os
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1]))
from alignment_toys import bench  # noqa: E402

from asyndm.bench.alignment.plan import Plan  # noqa: E402
from asyndm.bench.alignment.store import Store  # noqa: E402

METHODS = ("sync", "concave:k=.9", "asyndm:k=.9", "pag", "asyndm+apg:k=.9", "cfg++")
_ONE = threading.Lock()  # the host makes one picture at a time


class Served:
    """The host at an address of its own.

    Attributes:
        asked: the requests it was sent.
        plan: what it does instead, a status each.
    """

    def __init__(self, host, scripts=("asyndm",), title="tiny", login=None):
        self.asked, self.plan = [], []
        outer = self
        there = {
            "options": {"sd_model_checkpoint": title, "sd_checkpoint_hash": "abc"},
            "scripts": {"txt2img": list(scripts)},
            "samplers": [{"name": "Euler a"}, {"name": "Euler"}],
        }

        class Handler(BaseHTTPRequestHandler):
            def log_message(self, *args):
                pass

            def do_GET(self):
                self.answer(there.get(self.path.rpartition("/")[2]))

            def do_POST(self):
                asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                outer.asked.append(asked)
                if outer.plan:
                    return self.answer({"error": "out of memory"}, outer.plan.pop(0))
                with _ONE:
                    made = host._ask("txt2img", asked)
                return self.answer({"images": made.images, "info": made.info})

            def answer(self, value, status=200):
                if login and self.headers.get("Authorization") != login:
                    value, status = {"detail": "Not authenticated"}, 401
                data = json.dumps(value).encode()
                self.send_response(status)
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.http.serve_forever, daemon=True).start()
        self.url = f"http://127.0.0.1:{self.http.server_port}"


class Own:
    """A real host's own API at an address of its own, with its own routes and login."""

    def __init__(self, monkeypatch, login=None):
        import uvicorn
        from fastapi import FastAPI
        from modules import shared
        from modules.api.api import Api

        monkeypatch.setattr(shared.cmd_opts, "api_auth", login)
        app = Api(FastAPI(), threading.Lock()).app
        self.http = uvicorn.Server(uvicorn.Config(app, port=0, log_level="error"))
        thread = threading.Thread(target=self.http.run, daemon=True)
        thread.start()
        while not self.http.started:
            assert thread.is_alive()
            time.sleep(0.1)
        port = self.http.servers[0].sockets[0].getsockname()[1]
        self.url = f"http://127.0.0.1:{port}"


@pytest.fixture
def prompts(tmp_path):
    path = tmp_path / "prompts.txt"
    path.write_text("a cat on a mat\na dog beside a red bike\n")
    return path


def run(folder, urls, prompts, *more):
    return bench("run", "--folder", folder, "--backend", f"webui:{','.join(urls)}", "--prompts",
                 prompts, "--size", "128x128", "--steps", 4, "--cfg", 4, *more)  # fmt: skip


def test_methods_are_told_apart_by_their_rows_and_pictures(host, tmp_path, prompts):
    served = Served(host)
    assert run(tmp_path / "out", [served.url], prompts, "--methods", *METHODS) == 0
    plan, store = Plan.load(tmp_path / "out"), Store(tmp_path / "out")
    store.refresh()
    records = {m.text: store.records[plan.keys(m)[0][0]] for m in plan.methods}
    pictures = {store.picture(one["key"]).read_bytes() for one in records.values()}
    assert len(pictures) == len(METHODS)
    assert not [one["notes"] for one in records.values() if "notes" in one]
    assert records["pag"]["rows"] == 12 and records["cfg++"]["rows"] == 8
    assert records["asyndm+apg:k=.9"]["rows"] == 8
    assert records["cfg++"]["w_eff"] != 4 and records["sync"]["w_eff"] == 4
    unticked = host.txt2img(
        prompt="a cat on a mat", seed=records["sync"]["seed"], steps=4, cfg_scale=4,
        width=128, height=128, sampler_name="Euler a", scheduler="Automatic",
    )  # fmt: skip
    from PIL import Image

    with Image.open(store.picture(records["sync"]["key"])) as image:
        assert (unticked.images[0] == __import__("numpy").asarray(image)).all()
    served.http.shutdown()


def test_by_the_hosts_own_api(host, tmp_path, prompts, monkeypatch, capsys):
    """Over HTTP by its own routes, as in a WebUI that was started with --api and --api-auth."""
    if not os.environ.get("ASYNDM_WEBUI_DIR"):
        pytest.skip("of a real host")
    args = ["--methods", "sync", "asyndm:k=.9", "pag", "--limit", 1]
    served, own = Served(host), Own(monkeypatch, "me:secret")
    assert run(tmp_path / "own", [own.url], prompts, *args) == 2
    error = capsys.readouterr().err
    assert "ASYNDM_WEBUI_LOGIN" in error and error.count("\n") == 1
    monkeypatch.setenv("ASYNDM_WEBUI_LOGIN", "me:secret")
    assert run(tmp_path / "own", [own.url], prompts, *args, "--rule", "Magic") == 2
    assert "no sampler" in capsys.readouterr().err
    pictures, rows = {}, {}
    for name, url in (("own", own.url), ("served", served.url)):
        assert run(tmp_path / name, [url], prompts, *args) == 0
        plan, store = Plan.load(tmp_path / name), Store(tmp_path / name)
        store.refresh()
        keys = {m.text: plan.keys(m)[0][0] for m in plan.methods}
        pictures[name] = {text: store.picture(key).read_bytes() for text, key in keys.items()}
        rows[name] = {text: store.records[key]["rows"] for text, key in keys.items()}
    assert pictures["own"] == pictures["served"] and len({*pictures["own"].values()}) == 3
    assert rows["own"] == rows["served"]
    assert rows["own"]["asyndm:k=.9"] == 8 and rows["own"]["pag"] == 12
    plan = json.loads((tmp_path / "own" / "plan.json").read_text())
    assert plan["identity"]["checkpoint"].startswith("tiny-sd1")
    served.http.shutdown()
    own.http.should_exit = True


def test_addresses_share_the_work_and_one_may_die(host, tmp_path, prompts, capsys):
    if host.name not in ("A1111", "real"):
        pytest.skip("the host behind the address makes no difference here")
    one, two = Served(host), Served(host)
    two.plan = [500]
    args = ["--methods", "sync", "cfg:w=6"]
    assert run(tmp_path / "both", [one.url, two.url], prompts, *args) == 0
    assert len(two.asked) >= 1 and len(one.asked) + len(two.asked) == 5
    assert run(tmp_path / "one", [one.url], prompts, *args) == 0
    pictures = [
        {p.name: p.read_bytes() for p in (tmp_path / n).rglob("*.png")} for n in ("both", "one")
    ]
    assert pictures[0] == pictures[1]
    one.plan = [500] * 9
    assert run(tmp_path / "dead", [one.url], prompts, *args) == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert "refused (500 out of memory)" in error and "stays" in error
    assert run(tmp_path / "dead", [one.url], prompts, *args) == 2
    one.plan = []
    assert run(tmp_path / "dead", [one.url], prompts, *args) == 0
    for served in (one, two):
        served.http.shutdown()


def test_what_an_address_lacks_is_one_line(host, tmp_path, prompts, capsys, monkeypatch):
    if host.name not in ("A1111", "real"):
        pytest.skip("the host behind the address makes no difference here")
    good = Served(host)
    for served, says in (
        (Served(host, scripts=()), "has no AsynDM"),
        (Served(host, login="Basic bWU6c2VjcmV0"), "ASYNDM_WEBUI_LOGIN"),
        (Served(host, title="other"), "load the same checkpoint"),
    ):
        assert run(tmp_path, [good.url, served.url], prompts) == 2
        error = capsys.readouterr().err
        assert says in error and error.count("\n") == 1
    monkeypatch.setenv("ASYNDM_WEBUI_LOGIN", "me:secret")
    private = Served(host, login="Basic bWU6c2VjcmV0")
    assert run(tmp_path / "x", [private.url], prompts, "--methods", "sync", "--limit", 1) == 0
    everything = b"".join(p.read_bytes() for p in (tmp_path / "x").rglob("*") if p.is_file())
    assert b"secret" not in everything
    assert run(tmp_path, ["http://127.0.0.1:9"], prompts) == 2
    assert "does not answer" in capsys.readouterr().err
    assert run(tmp_path, [good.url], prompts, "--rule", "Magic") == 2
    assert "no sampler" in capsys.readouterr().err
    assert not (tmp_path / "images").exists()
