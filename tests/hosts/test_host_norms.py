"""Levelled norms in a WebUI: calibrated once, kept, interruptible, and gone behind the job."""

from __future__ import annotations

from functools import partial

import pytest
from jobs import apart, make, note, ticked

from asyndm.hosts.infotext import NORMS_KEY


@pytest.fixture
def folder(host, monkeypatch):
    """Where the tables lie; empty, and nothing held in memory. A table takes three calls."""
    from asyndm.hosts import levelling, shims

    walk = partial(levelling.from_walk, pictures=1, timesteps=(0, 500, 999))
    monkeypatch.setattr(levelling, "from_walk", walk)

    place = shims.norms_place()
    for file in place.glob("*") if place.is_dir() else ():
        file.unlink()
    levelling._TABLES._held.clear()
    return place


@pytest.fixture
def calls(host):
    """Counts the network's calls."""
    counted = []
    handle = host.network().middle_block[0].register_forward_hook(lambda *_: counted.append(1))
    yield counted
    handle.remove()


def test_the_first_job_calibrates_and_the_next_uses_the_table(host, traces, folder):
    unticked = make(host, "txt2img")
    plain = make(host, "txt2img", **ticked(curvature=0.9))
    first = make(host, "txt2img", **ticked(curvature=0.9, norms="levelled"))
    assert "norms=levelled" in first.parameters["AsynDM"] and not note(first)
    assert "norms are calibrated for this checkpoint (3 network calls" in str(first.info)
    assert len(list(folder.glob("*.safetensors"))) == 1
    assert apart(plain.images[0], first.images[0]) > 1
    again = make(host, "txt2img", **ticked(curvature=0.9, norms="levelled"))
    assert apart(first.images[0], again.images[0]) == 0
    assert "calibrated" not in str(again.info)
    assert again.parameters[NORMS_KEY] == first.parameters[NORMS_KEY]
    from asyndm.hosts import levelling

    levelling._TABLES._held.clear()  # as after a start: from the file
    afresh = make(host, "txt2img", **ticked(curvature=0.9, norms="levelled"))
    assert apart(first.images[0], afresh.images[0]) == 0
    assert apart(make(host, "txt2img", **ticked(curvature=0.9)).images[0], plain.images[0]) == 0
    assert apart(make(host, "txt2img").images[0], unticked.images[0]) == 0


def test_the_table_costs_its_calls_once(host, folder, calls):
    make(host, "txt2img", **ticked(curvature=0.9))
    job = len(calls)
    for extra in (3, 0):
        calls.clear()
        make(host, "txt2img", **ticked(curvature=0.9, norms="levelled"))
        assert len(calls) == job + extra


def test_another_size_is_another_table_and_an_interrupt_leaves_none(host, traces, folder):
    from modules import shared

    from asyndm.hosts import levelling

    make(host, "txt2img", **ticked(curvature=0.9, norms="levelled"))
    make(host, "txt2img", width=192, height=128, **ticked(curvature=0.9, norms="levelled"))
    assert len(list(folder.glob("*.safetensors"))) == 2
    levelling._TABLES._held.clear()
    for file in folder.glob("*"):
        file.unlink()
    network, seen = host.network(), []

    def interrupt(*_):
        seen.append(1)
        if len(seen) == 2:
            shared.state.interrupted = True

    handle = network.middle_block[0].register_forward_hook(interrupt)
    try:
        make(host, "txt2img", **ticked(curvature=0.9, norms="levelled"))
    finally:
        handle.remove()
    assert len(seen) == 2 and not list(folder.glob("*"))


@pytest.mark.parametrize("way", ["the model's checkpoint", "the weights alone"])
def test_a_refiner_in_the_same_network_has_a_table_of_its_own(
    host, traces, folder, monkeypatch, way
):
    """AUTOMATIC1111 loads a refiner's weights into the network that is there; so does Neo with
    ``refiner_fast_sd``, whose model goes on naming its first checkpoint."""
    from types import SimpleNamespace as Of

    from modules import processing, sd_samplers_common, shared

    names = dict.fromkeys(("sha256", "filename", "title", "short_title"), "refiner")
    refiner, model, seen = Of(**names), shared.sd_model, []
    monkeypatch.setattr(sd_samplers_common, "ORIGINAL_CHECKPOINT", None, raising=False)
    alone = way == "the weights alone"
    if alone:
        kind = processing.StableDiffusionProcessing
        monkeypatch.setattr(kind, "refiner_checkpoint_info", refiner, raising=False)

    def switch(*_):
        seen.append(1)
        if len(seen) == 6:  # three of the table, three steps
            if alone:
                sd_samplers_common.ORIGINAL_CHECKPOINT = "first"
            else:
                model.sd_checkpoint_info = refiner

    before = getattr(model, "sd_checkpoint_info", None)
    handle = host.network().middle_block[0].register_forward_hook(switch)
    try:
        make(host, "txt2img", **ticked(curvature=0.9, norms="levelled"))
    finally:
        handle.remove()
        model.sd_checkpoint_info = before
    tables = list(folder.glob("*.safetensors"))
    assert len(tables) == 2
    assert len(seen) == 11  # and three of the second table


def test_what_changes_the_network_is_in_the_key(host, tmp_path):
    from types import SimpleNamespace as Of

    from asyndm.hosts import levelling

    lora = {"lora": [Of(items=["ghibli", "0.8"])]}
    assert levelling.networks_of(Of(extra_network_data=lora)) == "lora:ghibli:0.8"
    assert levelling.networks_of(Of(extra_network_data={})) == "none"

    def patched(b1, b2):
        def output(h, hsp, options):
            return h * b1, hsp * b2

        return {"transformer_options": {"patches": {"output_block_patch": [output]}}}

    p = Of(extra_generation_params={"FreeU Schedule": "0, 1", "Size": "512x512"})
    texts = {levelling.changes_of(p, patched(*b)) for b in ((1.1, 1.2), (1.1, 1.3), (1.1, 1.2))}
    assert len(texts) == 2 and all("FreeU" in text and "Size" not in text for text in texts)
    assert levelling.checkpoint_of(Of(sha256="abc"), Of()) == "abc"
    # Where a host makes no hashes, its older one may be two checkpoints': it reads 64 kB.
    files = [tmp_path / f"{name}.safetensors" for name in "ab"]
    for file in files:
        file.write_bytes(b"alike")
    infos = [Of(sha256=None, hash="688589af", filename=str(file)) for file in files]
    one, two = (levelling.checkpoint_of(info, Of(sd_model_hash="688589af")) for info in infos)
    assert one != two


def test_what_a_host_notes_of_its_run_is_no_change_of_the_network(host):
    """Neo keeps a job's sigmas among a model's options, not those of a refiner that took over."""
    from types import SimpleNamespace as Of

    import torch

    from asyndm.hosts import levelling

    p = Of(extra_generation_params={})
    notes = {"sampling_sigmas": torch.ones(4), "patches": {}, "patches_replace": {"attn1": {}}}
    for options in ({}, {"transformer_options": {}}, {"transformer_options": notes}):
        assert levelling.changes_of(p, options) == "none"

    class Patch:
        pass

    kinds = {"model_function_wrapper": Patch(), "disable_cfg1_optimization": False}
    told = {levelling.changes_of(p, {name: value}) for name, value in kinds.items()}
    assert len(told) == 2 and "none" not in told
