"""What is asked of a host: each thing taken away in turn is one line, and the image is made."""

from __future__ import annotations

import importlib
import logging
import os
import sys
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest
from driver import OURS, REPO, STYLES, StandIn, missing
from jobs import apart, make, ticked

from asyndm.hosts import asked

pytestmark = [
    pytest.mark.skipif(bool(os.environ.get("ASYNDM_WEBUI_DIR")), reason="of the stand-in"),
    pytest.mark.skipif(bool(missing()), reason=f"the stand-in needs {missing()}"),
]
_IN_ORDER = sorted(asked.ASKED, key=lambda thing: thing.hosts)  # each host starts once
NEEDED = [thing for thing in _IN_ORDER if thing.needed]
REST = [thing for thing in _IN_ORDER if not thing.needed]


@pytest.fixture(scope="module")
def hosts():
    """One running host a style, without the extension, and its plain image."""
    made: dict[str, tuple[StandIn, np.ndarray]] = {}

    def get(style: str) -> tuple[StandIn, np.ndarray]:
        if style not in made:
            for other, _ in made.values():  # they lend modules of the same names
                other.close()
            made.clear()
            host = StandIn(style=style, extension=False)
            made[style] = host, make(host, "txt2img", steps=3).images[0]
        return made[style]

    yield get
    for host, _ in made.values():
        host.close()


@pytest.fixture
def bare(hosts, monkeypatch):
    """A host by its style; it forgets the extension afterwards."""
    kept = []

    def get(style: str) -> tuple[StandIn, np.ndarray]:
        host, plain = hosts(style)
        from modules import script_callbacks, sd_samplers

        callbacks = {key: list(value) for key, value in script_callbacks.callback_map.items()}
        samplers = list(sd_samplers.all_samplers), dict(sd_samplers.all_samplers_map)
        kept.append((script_callbacks.callback_map, callbacks, sd_samplers, samplers))
        return host, plain

    forget()
    yield get
    for table, callbacks, sd_samplers, (listed, named) in kept:
        for key, value in table.items():
            value[:] = callbacks.get(key, [])
        sd_samplers.all_samplers[:] = listed
        sd_samplers.all_samplers_map.clear()
        sd_samplers.all_samplers_map.update(named)
    forget()


def forget() -> None:
    """Let what holds on to the host's modules be loaded anew."""
    for name in [n for n in sys.modules if n.startswith(OURS)]:
        parent, _, last = name.rpartition(".")
        vars(sys.modules[parent]).pop(last, None)
        del sys.modules[name]


class Without(ModuleType):
    """A host's module that lacks one name for whoever looks it up from here on."""

    def __init__(self, real: ModuleType, name: str, instead: object = None) -> None:
        super().__init__(real.__name__)
        self.__dict__.update(_real=real, _name=name, _instead=instead)
        # Imports ask for these without asking the class.
        self.__dict__.update({k: v for k, v in vars(real).items() if k.startswith("__")})

    def __getattr__(self, name: str):
        if name == self._name:
            if self._instead is None:
                raise AttributeError(name)
            return self._instead
        return getattr(self._real, name)

    def __setattr__(self, name: str, value: object) -> None:
        setattr(self._real, name, value)


def take_away(thing: asked.Asked, monkeypatch) -> None:
    """Host's own code keeps what it imported before; the extension does not find the thing."""
    if thing.attribute:  # of objects: its class is asked about it
        own, has = getattr(importlib.import_module(thing.module), thing.name), asked._has
        monkeypatch.setattr(
            asked,
            "_has",
            lambda kind, name: (kind, name) != (own, thing.attribute) and has(kind, name),
        )
        return
    without = Without(importlib.import_module(thing.module), thing.name)
    monkeypatch.setitem(sys.modules, thing.module, without)
    parent, _, last = thing.module.rpartition(".")
    monkeypatch.setattr(sys.modules[parent], last, without)


def host_of(thing: asked.Asked) -> str:
    return {"Forge": "Neo", "reForge": "Classic", "A1111": "A1111"}[(*thing.hosts, "Forge")[0]]


def load(made: StandIn, caplog) -> list[str]:
    """AsynDM's script as the host's own loader runs it; the lines it says."""
    from modules import api, scripts

    with caplog.at_level(logging.WARNING, logger="asyndm"):
        scripts.load_scripts([REPO / "scripts" / "asyndm_script.py"])
        made.api = api.Api()
    return [record.message for record in caplog.records if record.name == "asyndm"]


def accordion() -> str:
    """All text the accordion shows."""
    import gradio as gr
    from modules import scripts

    (script,) = [s for s in scripts.scripts_txt2img.scripts if s.title() == "AsynDM"]
    with gr.Blocks() as page:
        script.ui(False)
    return "\n".join(str(b.value) for b in page.blocks.values() if isinstance(b, gr.Markdown))


@pytest.mark.parametrize("style", STYLES)
def test_nothing_is_missing_in_a_known_host(bare, style):
    bare(style)
    from asyndm.hosts import detect

    assert detect.find_host().lacks == () and asked.lacking(detect.host_name()) == []


@pytest.mark.parametrize("thing", REST, ids=str)
def test_a_missing_thing_is_one_line_and_the_image_is_made(bare, monkeypatch, caplog, thing):
    made, plain = bare(host_of(thing))
    take_away(thing, monkeypatch)
    (line,) = load(made, caplog)
    assert (thing.attribute or thing.name) in line and thing.module in line
    assert line.endswith(thing.lost + ".") and "\n" not in line
    assert line in accordion()
    image = make(made, "txt2img", steps=3, **ticked(curvature=0.8, save_masks=True))
    assert apart(plain, image.images[0]) > 3  # still asynchronous


@pytest.mark.parametrize("thing", NEEDED, ids=str)
def test_without_what_all_rests_on_one_line_says_so(bare, monkeypatch, caplog, thing):
    made, plain = bare(host_of(thing))
    take_away(thing, monkeypatch)
    if (thing.module, thing.name) in (
        ("modules.scripts", "Script"),
        ("modules.scripts", "AlwaysVisible"),
    ):
        from asyndm.hosts import detect  # no script can be drawn without these

        assert thing.name in detect.find_host().problem
        return
    (line,) = load(made, caplog)
    assert f"{thing.module} has no {thing.name}" in line and "images stay synchronous" in line
    assert line in accordion()
    image = make(made, "txt2img", steps=3, **ticked(curvature=0.8))
    assert np.array_equal(plain, image.images[0])


def test_a_function_that_takes_other_arguments_is_missing_too(bare, monkeypatch, caplog):
    """Scheduling that takes two places, saving that knows no suffix: as if they were not there."""
    made, plain = bare("Neo")
    from modules import images, prompt_parser

    monkeypatch.setattr(images, "save_image", lambda image, path, basename, info=None, p=None: None)
    own = prompt_parser.get_learned_conditioning_prompt_schedules
    name = "get_learned_conditioning_prompt_schedules"
    without = Without(prompt_parser, name, lambda prompts, base_steps: own(prompts, base_steps))
    monkeypatch.setitem(sys.modules, "modules.prompt_parser", without)
    monkeypatch.setattr(sys.modules["modules"], "prompt_parser", without)
    lines = load(made, caplog)
    assert [line for line in lines if name in line and "does not take 3 arguments" in line]
    assert [line for line in lines if "save_image does not take suffix" in line]
    image = make(made, "txt2img", steps=3, **ticked(curvature=0.8, save_masks=True))
    assert apart(plain, image.images[0]) > 3


def test_versions_are_never_compared():
    """No host's version text is looked at anywhere in the extension."""
    words = ("forge_version", "__version__ ==", "version_tag", "git_tag(", "__version__ !=")
    files = [*(REPO / "asyndm" / "hosts").glob("*.py"), *(REPO / "scripts").glob("*.py")]
    assert len(files) > 10
    found = [(f.name, word) for f in files for word in words if word in f.read_text()]
    assert found == []


def test_an_attribute_is_known_by_what_a_class_says():
    class Base:
        declared: int
        given = 1

        def __init__(self) -> None:
            self.set_here = 1

        @property
        def asked(self) -> int:
            return self.inside

    class Derived(Base):
        pass

    for name in ("declared", "given", "set_here", "asked", "inside"):
        assert asked._has(Derived, name), name
    assert not asked._has(Derived, "nowhere")
    assert not asked._has(SimpleNamespace, "nowhere")
