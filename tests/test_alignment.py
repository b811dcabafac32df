"""bench alignment: methods, prompt sets, the store and its kills, statistics, the report."""

from __future__ import annotations

import hashlib
import itertools
import json
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import torch
from alignment_toys import ROOT, bench, small
from PIL import Image

from asyndm.bench.alignment import geneval, prompt_sets, recipes
from asyndm.bench.alignment.methods import parse, parse_all
from asyndm.bench.alignment.plan import Plan
from asyndm.bench.alignment.store import Lines, Store
from asyndm.core.settings import SettingsError

# --- methods ---


def test_a_method_is_its_clock_its_guidance_and_its_values():
    (one,) = parse("asyndm+pag:k=.7,g=1,w=4")
    assert (one.clock, one.w, one.family) == ("asynchronous", 4.0, "asyndm+pag")
    assert one.settings.changed() == {
        "enabled": True, "curvature": 0.7, "guidance": "pag", "perturbed_scale": 1.0,
    }  # fmt: skip
    assert [m.text for m in parse("cfg++:lambda=.2|.4")] == ["cfg++:lambda=.2", "cfg++:lambda=.4"]
    assert parse("z-sampling")[0].zigzags and parse("sync")[0].plain
    assert parse("fixed:k=.3")[0].settings.mask_source == "fixed"


def test_two_ways_of_writing_one_method_are_one_picture():
    one, two, other = (parse(t)[0].canonical(2.5, 25) for t in ("sync", "cfg:w=2.5", "cfg:w=3"))
    assert one == two != other
    assert len(parse_all(["sync", "sync", "cfg"])) == 2


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("asymdm", "did you mean"),
        ("sync:k=.7", "does not read it"),
        ("concave:threshold=2", "does not read it"),
        ("pag:lambda=.3", "changes nothing beside pag"),
        ("cfg++:w=4", "guided by lambda"),
        ("asyndm:kk=.7", "no setting 'kk'"),
        ("asyndm:k=7", "out of range"),
        ("asyndm:k", "name=value"),
        ("pag+apg", "one guidance"),
        ("sync+concave", "one clock"),
        ("interval", "no ends"),
        ("cfg++:zigzag=1", "cannot zigzag"),
        ("asyndm:objects={1}>{2}>{1}", "is a circle"),
        ("concave:grid=8", "no mask is read"),
        ("asyndm:grid=0", "grid: '0'"),
        ("asyndm:objects={first}", "the object: 'first'"),
        ("asyndm:objects={0}>{1}", "the object: '0'"),
        ("", "one clock"),
    ],
)
def test_what_is_no_method_is_one_line(text, says):
    with pytest.raises(SettingsError, match=says) as caught:
        parse(text)
    assert "\n" not in str(caught.value)


def test_numbers_stand_for_the_objects_of_each_prompt():
    (one,) = parse("asyndm:k=.7,objects={2}>{1}:.2")
    assert one.by_prompt and not parse("asyndm:objects=star")[0].by_prompt
    made = one.settings_for("a red circle left of a blue square")
    assert made.objects == "blue square>red circle:.2" or made.objects == "square>circle:.2"
    assert made.curvature == 0.7
    assert one.settings_for("a star").objects == ""  # the automatic choice


def test_an_order_by_prompt_is_drawn_as_if_it_were_written(tmp_path):
    """With several prompts in a batch; each has its own words."""
    prompts = tmp_path / "prompts.txt"
    prompts.write_text("a red circle left of a blue square\na green star above a yellow circle\n")
    methods = ["asyndm:k=.7", "asyndm:k=.7,objects={1}>{2}", "asyndm:k=.7,objects={2}>{1}"]
    written = {
        0: ("asyndm:k=.7,objects=circle>square", "asyndm:k=.7,objects=square>circle"),
        1: ("asyndm:k=.7,objects=star>circle", "asyndm:k=.7,objects=circle>star"),
    }
    args = ["--prompts", prompts, "--limit", 2, "--steps", 5, "--backend", "embedded"]
    args += ["--methods", *methods, *written[0], *written[1]]
    assert bench("run", "--folder", tmp_path / "f", *args) == 0
    plan, store = Plan.load(tmp_path / "f"), Store(tmp_path / "f")
    store.refresh()
    looks = {
        one.text: [np.asarray(Image.open(store.picture(row[0])), int) for row in plan.keys(one)]
        for one in plan.methods
    }
    for prompt, same in written.items():
        for method, text in zip(methods[1:], same):
            assert abs(looks[method][prompt] - looks[text][prompt]).max() <= 1  # of another batch
        for one, two in itertools.combinations(methods, 2):
            assert abs(looks[one][prompt] - looks[two][prompt]).max() > 10


def test_masks_are_read_at_a_resolution_of_ones_own(tmp_path):
    """The small model's attention is 16x16 and 8x8."""
    methods = ["asyndm:k=.7", "asyndm:k=.7,grid=16", "asyndm:k=.7,grid=8", "fixed:k=.7,grid=8"]
    args = small(tmp_path, "--limit", 1, "--steps", 6, "--methods", *methods)
    assert bench("run", *args) == 0
    plan, store = Plan.load(tmp_path), Store(tmp_path)
    keys = [plan.keys(method)[0][0] for method in plan.methods]
    own, same, *coarse = (np.asarray(Image.open(store.mask(key)), int) for key in keys)
    assert len(set(keys)) == 4 and own.shape == (16, 16) and (own == same).all()
    assert [mask.shape for mask in coarse] == [(8, 8)] * 2
    looks = [store.picture(key).read_bytes() for key in keys]
    assert looks[0] == looks[1] and len({*looks}) == 3


def test_recipes_are_methods():
    for name in recipes.names():
        values = recipes.load(name)
        methods = parse_all(values["methods"])
        assert methods[0].plain and len(methods) > 2


def test_a_recipe_of_ones_own_is_checked(tmp_path):
    path = tmp_path / "mine.json"
    path.write_text('{"methods": ["sync"], "color": 1}')
    with pytest.raises(SettingsError, match="no option 'color'"):
        recipes.load(str(path))
    path.write_text('{"methods": "sync"}')
    with pytest.raises(SettingsError, match="methods cannot be"):
        recipes.load(str(path))


# --- prompt sets ---


def test_geneval_is_the_published_file():
    text = geneval.as_published()
    published = "5c48e0813e812e3c373fa5c8ed07a8f0a483be30272b4427b0559c8048e67c13"
    assert hashlib.sha256(text.encode()).hexdigest() == published
    assert not any(map(geneval.fault_of, geneval.prompts()))
    lines = "".join(one["prompt"] + "\n" for one in geneval.prompts())
    published = "55b6e3650e980c13daf30569eb666e000faf19bfc2b7b4cbe999fcdb7aa9d680"
    assert hashlib.sha256(lines.encode()).hexdigest() == published


@pytest.mark.parametrize(("name", "size"), [("geneval", 553), ("animals", 135), ("animals40", 40)])
def test_splits_share_no_prompt(name, size):
    test, development = (prompt_sets.load(name, split) for split in prompt_sets.SPLITS)
    assert len(test) == size and len(development) >= 100
    assert not {one.text for one in test} & {one.text for one in development}


def test_a_limit_grows_and_takes_of_all_tasks():
    few, more = (prompt_sets.load("geneval", limit=n) for n in (40, 80))
    assert {one.text for one in few} < {one.text for one in more}
    assert len({one.task for one in few}) == 6
    grammar = prompt_sets.load("grammar", limit=5)
    assert [p.text for p in prompt_sets.load("grammar", limit=9)][:5] == [p.text for p in grammar]


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("p.txt", "a cat\n\n  a  dog \na cat\n"),
        ("p.csv", 'Prompts,Category\n"a cat",x\na dog,y\n'),
        ("p.tsv", "Prompt\tCategory\na cat\tx\na dog\ty\n"),
        ("p.json", '["a cat", {"prompt": "a dog"}]'),
        ("coco.json", '{"annotations": [{"caption": "a cat"}, {"caption": "a dog"}]}'),
        ("p.jsonl", '"a cat"\n{"text": "a dog", "tag": "one"}\n'),
    ],
)
def test_prompts_of_a_file(tmp_path, name, content):
    (tmp_path / name).write_text(content)
    assert [p.text for p in prompt_sets.load(str(tmp_path / name))] == ["a cat", "a dog"]


def asks(**more):
    one = {"class": "cat", "count": 1, **more}
    return json.dumps({"prompt": "a cat", "include": [one]})


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("p.csv", "name\na cat\n", "line 1: no column prompt"),
        ("p.csv", "prompt,x\na cat,1\n,2\n", "line 3: there is no prompt"),
        ("p.json", '["a cat",\n 3]', "entry 2: there is no prompt"),
        ("p.json", "[", "line 1: it is no JSON"),
        ("p.jsonl", '"a cat"\n{"prompt": \n', "line 2: it is no JSON"),
        ("p.txt", "\n \n", "has no test prompt"),
        ("p.csv", '"prompt"x\na cat\n', "line 1: ','"),
        ("p.csv", 'prompt\na cat\n"a" dog\n', "line 3: ','"),
        ("p.csv", "prompt\na cat\na dog, a bike\n", "line 3: 1 more columns"),
        ("p.json", "[" * 100_000, "no list of prompts"),
        ("p.jsonl", '{"prompt": "a cat", "include": [{"clas": "cat"}]}', "include 1 has no class"),
        ("p.jsonl", asks(count="two"), "include 1: count is 'two'"),
        ("p.jsonl", asks(color="mauve"), "include 1: color is 'mauve'"),
        ("p.jsonl", asks(position=["left of", 0]), "include 1: position is"),
        ("p.jsonl", '"a dog"\n{"prompt": "a cat", "exclude": 3}', "line 2: exclude is no list"),
    ],
)
def test_a_bad_line_is_named(tmp_path, name, content, says):
    (tmp_path / name).write_text(content)
    with pytest.raises(SettingsError, match=says):
        prompt_sets.load(str(tmp_path / name))


def test_what_a_backend_cannot_read_is_one_line_before_the_first_picture(tmp_path, capsys, weights):
    assert bench("run", *small(tmp_path, "--prompts", "geneval")) == 2
    line = capsys.readouterr().err.strip()
    assert "a photo of" in line and "\n" not in line and not (tmp_path / "images").exists()


# --- drawing ---


def test_the_row_counts_and_the_pictures_tell_methods_apart(tmp_path):
    methods = ["sync", "asyndm:k=.7", "cfg:w=4", "pag:g=20", "fixed", "z-sampling"]
    args = small(tmp_path, "--limit", 1, "--methods", *methods)
    assert bench("run", *args) == 0
    plan, store = Plan.load(tmp_path), Store(tmp_path)
    store.refresh()
    rows, looks = {}, set()
    for method in plan.methods:
        keys = [row[0] for row in plan.keys(method)]
        rows[method.text] = {store.records[key]["rows"] for key in keys}
        looks.add(store.picture(keys[0]).read_bytes())
        assert {"seconds", "w_eff", "saturation", "contrast"} <= set(store.records[keys[0]])
    assert rows == {"sync": {6}, "asyndm:k=.7": {6}, "cfg:w=4": {6}, "pag:g=20": {9}, "fixed": {12},
                    "z-sampling": {12}}  # fmt: skip
    assert len(looks) == len(methods)
    assert store.mask(plan.keys(plan.methods[1])[0][0]).exists()
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.png")}
    assert bench("run", *args) == 0  # all is there
    assert before == {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.png")}


def lines_of(folder):
    store = Store(folder)
    store.refresh()
    timeless = [{k: v for k, v in one.items() if k != "seconds"} for one in store.records.values()]
    pictures = {path.name: path.read_bytes() for path in folder.glob("images/*/*.png")}
    return sorted(timeless, key=lambda one: one["key"]), pictures


def spawn(args):
    threads = str(torch.get_num_threads())  # as here: another number changes last bits
    env = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": threads}
    command = [sys.executable, "-m", "asyndm", "bench", "alignment", "run", *map(str, args)]
    return subprocess.Popen(command, env=env, cwd=ROOT, stderr=subprocess.DEVNULL,
                            stdout=subprocess.DEVNULL)  # fmt: skip


@pytest.mark.slow
def test_three_kills_lose_and_repeat_nothing(tmp_path, weights):
    def args(folder):
        return ["--folder", folder, "--limit", 24, "--steps", 4, "--batch", 4,
                "--backend", f"embedded:{weights}"]  # fmt: skip

    assert bench("run", *args(tmp_path / "whole")) == 0
    cut = tmp_path / "cut"
    rng = np.random.default_rng()
    for _ in range(3):
        there = len(list(cut.glob("records/*")))
        process = spawn(args(cut))
        while len(list(cut.glob("records/*"))) <= there and process.poll() is None:
            time.sleep(0.02)
        time.sleep(rng.uniform(0, 1.5))
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert bench("run", *args(cut)) == 0
    assert lines_of(cut) == lines_of(tmp_path / "whole")
    lines = [json.loads(line)["key"] for path in cut.glob("records/*") for line in open(path)]
    assert len(lines) == len(set(lines))


@pytest.mark.slow
def test_processes_share_a_folder_and_repeat_nothing(tmp_path, weights):
    args = ["--limit", 24, "--steps", 4, "--batch", 4, "--backend", f"embedded:{weights}"]
    both = [spawn(["--folder", tmp_path / "both", *args]) for _ in range(2)]
    assert [process.wait() for process in both] == [0, 0]
    files = list((tmp_path / "both" / "records").glob("*"))
    lines = [json.loads(line)["key"] for path in files for line in open(path)]
    assert len(lines) == len(set(lines)) == 72 and len(files) == 2
    bench("run", "--folder", tmp_path / "one", *args)
    assert lines_of(tmp_path / "both") == lines_of(tmp_path / "one")


def test_a_batch_that_breaks_off_is_drawn_again(tmp_path, weights, monkeypatch):
    """A kill between pictures and lines, a torn line, a picture that is gone, in one folder."""
    args = small(tmp_path / "cut", "--backend", f"embedded:{weights}")
    monkeypatch.setattr(Lines, "append", lambda self, lines: (_ for _ in ()).throw(KeyError))
    with pytest.raises(KeyError):
        bench("run", *args)
    monkeypatch.undo()
    (tmp_path / "cut" / "records").mkdir()
    (tmp_path / "cut" / "records" / "torn.jsonl").write_text('{"key": "ab", "see')
    assert bench("run", *args) == 0
    gone = next((tmp_path / "cut").glob("images/*/*.png"))
    gone.unlink()
    assert bench("run", *args) == 0
    bench("run", *small(tmp_path / "whole", "--backend", f"embedded:{weights}"))
    assert lines_of(tmp_path / "cut") == lines_of(tmp_path / "whole")


def test_a_full_disk_is_one_line_and_loses_nothing(tmp_path, weights, monkeypatch, capsys):
    args = small(tmp_path, "--backend", f"embedded:{weights}", "--batch", 1)
    replace, calls = os.replace, []

    def full(source, target):
        calls.append(target)
        if len(calls) > 6:
            raise OSError(28, "No space left on device")
        return replace(source, target)

    monkeypatch.setattr(os, "replace", full)
    assert bench("run", *args) == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert "No space left" in error and "goes on from it" in error
    monkeypatch.undo()
    there = lines_of(tmp_path)[0]
    assert 0 < len(there) < 9 and not list(tmp_path.rglob(".*.png.*"))
    assert bench("run", *args) == 0
    assert len(lines_of(tmp_path)[0]) == 9


@pytest.mark.parametrize(
    "args",
    [
        ["report"], ["score"], ["run", "--methods", "x"], ["run", "--limit", "0"],
        ["run", "--backend", "cloud"], ["run", "--coupling", ".3"], ["run", "--size", "big"],
        ["run", "--rule", "magic"], ["run", "--prompts", "nosuch"], ["run", "--seeds", "0"],
        ["run", "--recipe", "nosuch"], ["run", "--chosen", "nosuch.json"],
        ["run", "--family", "pag"], ["report", "--steps", "3"],
        ["run", "--backend", "embedded:/no/such/weights"], ["report", "--scores", "noise"],
        ["run", "--export", "x"], ["score", "--choose", "noise"], ["run", "--weights", "W"],
        ["run", "--device", "moon"], ["run", "--config", "x"],
    ],
)  # fmt: skip
def test_bad_input_is_one_line(tmp_path, args, capsys):
    assert bench(*args, "--folder", tmp_path) == 2
    error = capsys.readouterr().err
    assert error.startswith("asyndm: ") and error.count("\n") == 1
    assert not (tmp_path / "images").exists()
