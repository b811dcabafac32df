"""Settings of transformers on the page: is such a network loaded, or chosen to be?"""

from __future__ import annotations

import json
import struct
from pathlib import Path
from types import SimpleNamespace

import pytest
from torch import nn

from asyndm.network.names import name_a_transformer, weight_names

SD3 = ("x_embedder", "t_embedder", "context_embedder", "joint_blocks", "final_layer")
FLUX = (
    *("img_in", "txt_in", "time_in", "vector_in", "double_blocks", "single_blocks"),
    "final_layer",
)
CHROMA = (
    *("img_in", "txt_in", "distilled_guidance_layer", "double_blocks", "single_blocks"),
    "final_layer",
)
UNET = ("time_embed", "input_blocks", "middle_block", "output_blocks", "out")
KINDS = {"sd3": SD3, "flux": FLUX, "chroma": CHROMA, "unet": UNET}


def safetensors(path: Path, names: list[str]) -> Path:
    head = {name: {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]} for name in names}
    text = json.dumps({"__metadata__": {"format": "pt"}, **head}).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text)
    return path


def gguf(path: Path, names: list[str]) -> Path:
    """Version 3 of the format: counts, one key, then name, dimensions, type, offset."""
    head = b"GGUF" + struct.pack("<IQQ", 3, len(names), 1)
    head += _text("general.architecture") + struct.pack("<I", 8) + _text("any")
    for name in names:
        head += _text(name) + struct.pack("<IQIQ", 1, 32, 8, 0)
    path.write_bytes(head)
    return path


def _text(text: str) -> bytes:
    return struct.pack("<Q", len(text)) + text.encode()


@pytest.mark.parametrize("write", [safetensors, gguf])
@pytest.mark.parametrize("prefix", ["", "model.diffusion_model."])
@pytest.mark.parametrize("kind", list(KINDS))
def test_a_file_tells_its_network(tmp_path, kind, prefix, write) -> None:
    names = [f"{prefix}{name}.0.weight" for name in KINDS[kind]]
    path = write(tmp_path / f"x.{write.__name__}", [*names, "vae.decoder.conv_in.weight"])
    assert name_a_transformer(weight_names(path)) is (kind != "unet")


@pytest.mark.parametrize(
    "content", [b"", b"PK\x03\x04 a pickle", b"\xff" * 64, b"\x02\0\0\0\0\0\0\0"]
)
@pytest.mark.parametrize("ending", ["safetensors", "ckpt"])
def test_a_file_that_does_not_tell(tmp_path, content, ending) -> None:
    path = tmp_path / f"x.{ending}"
    path.write_bytes(content)
    assert weight_names(path) is None and weight_names(tmp_path / "none.safetensors") is None


class Network(nn.Module):
    def __init__(self, names: tuple[str, ...]) -> None:
        super().__init__()
        for name in (*names, "pe_embedder"):
            setattr(self, name, nn.Identity())


@pytest.fixture
def asked(host, monkeypatch, tmp_path):
    """The page's answer, with a network and a chosen file in the host's place for them."""
    if not hasattr(host, "_models"):
        pytest.skip("exchanges the loaded model: the stand-in only")
    from asyndm.hosts import chosen

    def ask(loaded: str | None, file: Path | None = None) -> bool:
        model, network = None, Network(KINDS[loaded]) if loaded else None
        if loaded:
            info = SimpleNamespace(filename=str(tmp_path / "loaded.ckpt"))
            model = SimpleNamespace(sd_checkpoint_info=info)
        monkeypatch.setattr(host.shared, "sd_model", model)
        info = SimpleNamespace(filename=str(file)) if file else None
        monkeypatch.setattr(host._models, "get_closet_checkpoint_match", lambda name: info)
        monkeypatch.setitem(host.shared.opts.data, "sd_model_checkpoint", "x" if file else None)
        return chosen.of_transformers(lambda model: network)

    return ask


def test_what_is_loaded_tells_where_it_is_what_was_chosen(asked, tmp_path) -> None:
    assert not asked(None)
    for kind in KINDS:
        assert asked(kind) is (kind != "unet")
        assert asked(kind, tmp_path / "loaded.ckpt") is (kind != "unet")


def test_the_chosen_file_tells_before_it_is_loaded(asked, tmp_path) -> None:
    """Forge loads with the next picture."""
    for kind, names in KINDS.items():
        path = safetensors(tmp_path / "chosen.safetensors", [f"{name}.weight" for name in names])
        for loaded in (None, "unet", "flux"):
            assert asked(loaded, path) is (kind != "unet")


def test_what_is_loaded_tells_where_the_chosen_file_does_not(asked, tmp_path) -> None:
    (tmp_path / "chosen.ckpt").write_bytes(b"a pickle")
    assert asked("flux", tmp_path / "chosen.ckpt")
    assert not asked("unet", tmp_path / "chosen.ckpt")
    assert not asked(None, tmp_path / "chosen.ckpt")


def test_the_answer_is_an_event_of_the_page(host) -> None:
    """By the run's own functions, and no reason for the page to fail."""
    from asyndm.hosts import chosen

    def refuse(model):
        raise RuntimeError("a host that changed")

    assert chosen.of_transformers(refuse) is False
