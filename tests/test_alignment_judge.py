"""bench alignment: judges on an OpenAI-compatible server that also answers 503 and nonsense."""

from __future__ import annotations

import base64
import io
import json
import math
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
import tiny_scores
import torch
from alignment_toys import bench
from PIL import Image

from asyndm.bench.alignment.prompt_sets import Prompt
from asyndm.bench.alignment.scores import Absent, Options, open_score
from asyndm.core.settings import SettingsError

pytest.importorskip("openai", reason="pip install 'asyndm[bench]'")
RED, BLUE = (Image.new("RGB", (16, 16), name) for name in ("red", "blue"))
PROMPTS = [Prompt("a cat riding a red bike", 0), Prompt("a dog on a bike", 1)]


class Server:
    """Answers by the picture's colour; ``plan`` is what it does instead, one request each."""

    def __init__(self):
        self.asked, self.plan = [], []
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def log_message(self, *args):
                pass

            def do_POST(self):
                size = int(self.headers["Content-Length"])
                asked = json.loads(self.rfile.read(size))
                outer.asked.append((asked, self.headers.get("Authorization")))
                step = outer.plan.pop(0) if outer.plan else None
                status = step if isinstance(step, int) else 200
                body = step if isinstance(step, str) else json.dumps(outer.answer(asked))
                data = (body if status == 200 else "{}").encode()
                self.send_response(status)
                self.send_header("Content-Type", "application/json")
                if status == 503:
                    self.send_header("Retry-After", "0")
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.http.serve_forever, daemon=True).start()
        self.url = f"http://127.0.0.1:{self.http.server_port}/v1"

    def answer(self, asked):
        picture, text = (part for part in asked["messages"][0]["content"])
        data = base64.b64decode(picture["image_url"]["url"].partition(",")[2])
        red, _, blue = Image.open(io.BytesIO(data)).convert("RGB").getpixel((0, 0))
        choice = {"index": 0, "finish_reason": "stop", "message": {"role": "assistant"}}
        if "logprobs" in asked:
            yes = 0.8 if red > blue else 0.1
            tokens = [("Yes", yes), (" no", 0.15), ("yes", 0.05), ("maybe", 0.01)]
            top = [{"token": t, "logprob": math.log(p), "bytes": None} for t, p in tokens]
            choice["message"]["content"] = "Yes"
            choice["logprobs"] = {"content": [{**top[0], "top_logprobs": top}], "refusal": None}
        elif "response_format" in asked:
            said = {"reason": "a cat, no bike", "score": 7 if red > blue else 2}
            choice["message"]["content"] = json.dumps(said)
        else:
            choice["message"]["content"] = "a cat on a red bike" if red > blue else "the image"
        return {"id": "1", "object": "chat.completion", "created": 0, "model": asked["model"],
                "choices": [choice]}  # fmt: skip


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setenv("ASYNDM_JUDGE_KEY", "secret-of-mine")
    made = Server()
    yield made
    made.http.shutdown()


def options(server, **weights):
    return Options(weights, server.url, "tiny-judge")


def test_a_judgement_is_what_the_judge_says(server):
    score = open_score("qwenscore", options(server))
    first, second = score.score([RED, BLUE], PROMPTS)
    assert (first.value, second.value, first.reason) == (7, 2, "a cat, no bike")
    asked, key = server.asked[0]
    assert key == "Bearer secret-of-mine" and asked["temperature"] == 0
    assert PROMPTS[0].text in asked["messages"][0]["content"][1]["text"]
    version = score.version()
    assert version["server's model"] == "tiny-judge" and "{prompt}" in version["question"]
    assert "secret" not in json.dumps(version)


def test_vqascore_is_the_chance_of_yes(server):
    first, second = open_score("vqascore", options(server)).score([RED, BLUE], PROMPTS)
    assert first.value == pytest.approx(0.85 / 1.0)
    assert second.value == pytest.approx(0.15 / 0.30)


def test_503_is_asked_again_and_nonsense_is_no_value(server):
    score = open_score("qwenscore", options(server))
    server.plan = [503, 503]
    assert score.score([RED], PROMPTS[:1])[0].value == 7 and len(server.asked) == 3
    nonsense = json.dumps({"choices": [{"message": {"content": "seven, I think"}}]})
    server.plan = [nonsense]
    assert score.score([RED], PROMPTS[:1])[0].value == 7  # asked once more
    for body in (nonsense, "{}", "[]", '{"choices": []}',
                 json.dumps({"choices": [{"message": {"content": '{"score": 70}'}}]})):  # fmt: skip
        server.plan = [body, body]
        value = score.score([RED], PROMPTS[:1])[0]
        assert value.value is None and value.reason
    vqa = open_score("vqascore", options(server))
    server.plan = [nonsense, nonsense]
    assert "no probabilities" in vqa.score([RED], PROMPTS[:1])[0].reason


def test_a_server_that_dies_is_one_line_and_nothing_is_lost(server, tmp_path, weights, capsys,
                                                            monkeypatch):  # fmt: skip
    monkeypatch.setattr("asyndm.bench.alignment.scores.judge._RETRIES", 0)
    base = ["--folder", tmp_path, "--judge", server.url, "--judge-model", "m"]
    run = ["--backend", f"embedded:{weights}", "--limit", 3, "--steps", 1, "--methods", "sync"]
    assert bench("run", "--folder", tmp_path, *run) == 0
    server.plan = ["", ""]
    server.plan = [json.dumps(server.answer({"model": "m", "response_format": 1, "messages": [
        {"content": [{"image_url": {"url": "," + _png(RED)}}, {}]}]}))] * 2 + [500]  # fmt: skip
    assert bench("score", *base, "--scores", "qwenscore") == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert "does not answer" in lines[-1] and "goes on" in lines[-1]
    kept = [line for path in tmp_path.glob("scores/qwenscore/*/*.jsonl") for line in open(path)]
    assert len(kept) == 2
    before = len(server.asked)
    assert bench("score", *base, "--scores", "qwenscore") == 0
    assert len(server.asked) == before + 1
    everything = b"".join(p.read_bytes() for p in tmp_path.rglob("*") if p.is_file())
    assert b"secret-of-mine" not in everything


def _png(image):
    out = io.BytesIO()
    image.save(out, "PNG")
    return base64.b64encode(out.getvalue()).decode()


def test_bertscore_is_the_f1_of_the_weights_embeddings(server, tmp_path):
    pytest.importorskip("torchmetrics", reason="pip install 'asyndm[bench]'")
    from transformers import AutoModel, AutoTokenizer

    folder = tiny_scores.bert(tmp_path / "bert")
    score = open_score("bertscore", options(server, bertscore=folder))
    got = score.score([RED, BLUE], PROMPTS)
    model, tokenizer = (
        AutoModel.from_pretrained(folder).eval(),
        AutoTokenizer.from_pretrained(folder),
    )

    def embedded(text):
        with torch.no_grad():
            out = model(**tokenizer(text, return_tensors="pt"), output_hidden_states=True)
        states = out.hidden_states[3][0, 1:-1]  # its last layer, without [CLS] and [SEP]
        return states / states.norm(dim=-1, keepdim=True)

    expected = []
    for said, prompt in zip(("a cat on a red bike", "the image"), PROMPTS):
        near = embedded(said) @ embedded(f"The image contains {prompt.text}").T
        precision, recall = near.max(1).values.mean(), near.max(0).values.mean()
        expected.append(float(2 * precision * recall / (precision + recall)))
    assert [value.value for value in got] == pytest.approx(expected, abs=1e-4)
    assert got[0].parts["caption"] == "a cat on a red bike"


def test_no_server_is_one_line():
    with pytest.raises(Absent, match="--judge URL"):
        open_score("vqascore", Options())
    with pytest.raises(SettingsError, match="is no address"):
        open_score("vqascore", Options(server="no address", model="m"))
