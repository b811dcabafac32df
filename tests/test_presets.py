"""Presets a user saves: by name, whole or not at all, one line where something is wrong."""

from __future__ import annotations

import json
import threading

import pytest

from asyndm.core.presets import FIELDS, MOST_BYTES, Presets
from asyndm.core.settings import PRESETS, Settings, SettingsError


@pytest.fixture
def presets(tmp_path):
    return Presets(tmp_path / "asyndm-presets")


def line(error) -> str:
    text = str(error.value)
    assert text.startswith("preset:") and "\n" not in text
    return text


def test_what_is_saved_is_found_by_its_name(presets):
    assert presets.names() == list(PRESETS)
    assert presets.save(" my sharks ", {"curvature": 0.65, "smoothing": 0.3}) == "my sharks"
    assert presets.names() == [*PRESETS, "my sharks"]
    values = presets.values("my sharks")
    assert tuple(values) == FIELDS and values["curvature"] == 0.65 and values["smoothing"] == 0.3
    assert values["threshold"] == Settings().threshold
    presets.save("my sharks", {"curvature": 0.2})
    assert presets.values("my sharks")["curvature"] == 0.2
    assert presets.values("my sharks")["smoothing"] == 0
    presets.remove("my sharks")
    assert presets.names() == list(PRESETS)


def test_what_a_picture_is_of_is_no_part_of_it(presets):
    presets.save("x", {"enabled": True, "objects": "shark", "show_masks": True, "curvature": 0.3})
    assert json.loads((presets.folder / "x.json").read_text()) == {"curvature": 0.3}


@pytest.mark.parametrize("name", list(PRESETS))
def test_those_that_come_with_asyndm(presets, name):
    values = presets.values(name)
    assert Settings(**values) == Settings(**PRESETS[name])
    with pytest.raises(SettingsError) as error:
        presets.save(name.upper(), {})
    assert "comes with AsynDM" in line(error)


BAD_NAMES = (
    *("", " ", ".", "..", "../x", "a/b", "a\\b", "/etc/passwd", "C:x", "x.json", "con", "LPT1"),
    *("a\0b", "a\nb", "x" * 41, "%2e%2e", "~", "*", None, 3, ["x"], True),
)


@pytest.mark.parametrize("name", BAD_NAMES, ids=repr)
def test_a_name_is_never_a_path(presets, name):
    with pytest.raises(SettingsError) as error:
        presets.save(name, {})
    line(error)
    for reading in (presets.values, presets.remove):
        with pytest.raises(SettingsError) as error:
            reading(name)
        line(error)
    assert not presets.folder.exists()


@pytest.mark.parametrize("name", ["鯊魚", "Hai-Fisch_2", "ライン", "я"])
def test_names_in_every_script(presets, name):
    presets.save(name, {"curvature": 0.3})
    assert presets.values(name)["curvature"] == 0.3


def test_values_are_checked_before_anything_is_written(presets):
    presets.save("x", {"curvature": 0.3})
    with pytest.raises(SettingsError, match="curvature: 7"):
        presets.save("x", {"curvature": 7})
    assert presets.values("x")["curvature"] == 0.3
    with pytest.raises(SettingsError) as error:
        presets.save("y", {"mask_colours": "x" * MOST_BYTES})
    assert "too long" in line(error)
    assert presets.names()[-1] == "x"


BAD_FILES = {
    "no json": b"{",
    "no object": b"[1]",
    "value": b'{"curvature": 7}',
    "kind": b'{"soft": "yes"}',
    "unknown": b'{"glow": 1}',
    "kept": b'{"enabled": true}',
    "long": b" " * (MOST_BYTES + 1),
    "bytes": b"\xff\xfe\x00",
    "deep": b"[" * 9000,
    "NaN": b'{"curvature": NaN}',
    "digits": b'{"curvature": 1' + b"0" * 5000 + b"}",
}


@pytest.mark.parametrize("kind", BAD_FILES)
def test_a_bad_file_is_one_line(presets, kind):
    presets.folder.mkdir()
    (presets.folder / "mine.json").write_bytes(BAD_FILES[kind])
    with pytest.raises(SettingsError) as error:
        presets.values("mine")
    assert "'mine'" in line(error) and len(str(error.value)) < 250
    presets.save("mine", {"curvature": 0.4})
    assert presets.values("mine")["curvature"] == 0.4


def test_links_and_folders_are_no_presets(presets, tmp_path):
    presets.folder.mkdir()
    secret = tmp_path / "secret.json"
    secret.write_text('{"curvature": 0.1}')
    (presets.folder / "link.json").symlink_to(secret)
    (presets.folder / "folder.json").mkdir()
    assert presets.names() == list(PRESETS)


def test_frozen_settings_are_neither_saved_nor_removed(presets):
    presets.save("x", {"curvature": 0.3})
    presets.frozen = "settings are frozen (--freeze-settings); nothing is saved."
    for change in (lambda: presets.save("y", {}), lambda: presets.remove("x")):
        with pytest.raises(SettingsError) as error:
            change()
        assert "--freeze-settings" in line(error)
    assert presets.values("x")["curvature"] == 0.3 and presets.names()[-1] == "x"


def test_a_folder_that_cannot_be_written_is_one_line(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(SettingsError) as error:
        Presets(tmp_path / "file").save("x", {})
    line(error)
    with pytest.raises(SettingsError) as error:
        Presets().save("x", {})
    line(error)


def test_a_failure_in_the_middle_leaves_the_old_file(presets, monkeypatch):
    presets.save("x", {"curvature": 0.3})

    def fail(*paths):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as m:
        m.setattr("os.replace", fail)
        with pytest.raises(SettingsError) as error:
            presets.save("x", {"curvature": 0.9})
    assert "No space left" in line(error)
    assert presets.values("x")["curvature"] == 0.3
    assert {p.name for p in presets.folder.iterdir()} - {".lock"} == {"x.json"}


def test_many_writers_at_once(presets):
    """Two objects on one folder stand for two processes; a reader always sees a whole file."""
    other, wrong = Presets(presets.folder), []
    presets.save("x", {"curvature": 0.1})

    def write(who, k):
        for _ in range(20):
            who.save("x", {"curvature": k, "smoothing": k})

    def read():
        for _ in range(200):
            values = presets.values("x")
            if values["smoothing"] not in (0, values["curvature"]):
                wrong.append(values)

    threads = [threading.Thread(target=write, args=a) for a in ((presets, 0.2), (other, 0.4))]
    threads.append(threading.Thread(target=read))
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong and presets.values("x")["curvature"] in (0.2, 0.4)
