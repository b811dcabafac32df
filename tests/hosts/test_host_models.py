"""Other models and other parts of a WebUI together with AsynDM; a real host only."""

from __future__ import annotations

import copy
import os
from functools import partial
from types import SimpleNamespace

import numpy as np
import pytest
from jobs import PROMPT, Traces, apart, make, request, scene, ticked

pytestmark = pytest.mark.skipif(
    not os.environ.get("ASYNDM_WEBUI_DIR"), reason="no real WebUI: set ASYNDM_WEBUI_DIR"
)


@pytest.fixture
def load(host):
    """Load a checkpoint for one test."""

    def load(name: str) -> Traces:
        if not host.has(name):
            pytest.skip(f"this WebUI has no checkpoint {name}")
        host.checkpoint(name)
        host.txt2img(prompt="", steps=1)  # hosts leave notes on a model at its first use
        return Traces(host)

    yield load
    host.checkpoint("sd1")
    host.txt2img(prompt="", steps=1)


@pytest.mark.parametrize("kind", ["txt2img", "hires", "inpaint"])
@pytest.mark.parametrize("model", ["sdxl", "sdxl-rectified", "sd2-v", "sd1-inpaint"])
def test_other_models(host, load, model, kind):
    traces = load(model)
    asked = {"batch_size": 2, "prompt": f"{PROMPT} AND a bird"}
    try:
        plain = make(host, kind, **asked)
    except Exception as error:
        if (model, kind) != ("sd1-inpaint", "hires"):
            raise
        # With a latent upscaler hosts make the mask at the first pass's size.
        pytest.skip(f"the host itself: {type(error).__name__}: {error}"[:120])
    again = make(host, kind, **asked)
    same = make(host, kind, **asked, **ticked(curvature=1e-9))
    made = make(host, kind, **asked, **ticked(curvature=0.9))
    for one, other in zip(plain.images, again.images):
        assert np.array_equal(one, other), "the host itself draws what no seed fixes"
    for one, two, three in zip(plain.images, same.images, made.images):
        assert apart(one, two) <= 1
        assert apart(one, three) > 3
    assert "AsynDM note" not in made.parameters
    traces.check()


OTHERS = ("sd2-v", "sdxl", "sd1-inpaint")


@pytest.fixture(scope="module")
def bare(host, tmp_path_factory):
    """The same jobs with other models, of a host that has no AsynDM."""
    from driver import bare_images

    asked = {
        model: {kind: request(kind) for kind in ("txt2img", "inpaint")}
        for model in OTHERS
        if host.has(model)
    }
    return bare_images(host, asked, tmp_path_factory.mktemp("bare") / "images.npz")


@pytest.mark.parametrize("model", OTHERS)
def test_not_ticked_other_models_are_the_hosts_without_the_extension(host, load, bare, model):
    traces = load(model)
    make(host, "txt2img", **ticked(curvature=0.9, guidance="pag"))  # what came before is gone
    for kind in ("txt2img", "inpaint"):
        made = make(host, kind)
        assert np.array_equal(np.stack(made.images), bare[f"{model}: {kind}"]), kind
    traces.check()


def refined(host, load, monkeypatch, way: str) -> dict:
    """What a job asks that a refiner takes over; skips where the host has no such ``way``."""
    load("sd1-b")
    host.checkpoint("sd1")
    if hasattr(host.shared.opts, "refiner_use_steps"):  # Neo's fraction is else a noise level
        monkeypatch.setitem(host.shared.opts.data, "refiner_use_steps", True)
    if way == "weights":
        if not hasattr(host.shared.opts, "refiner_fast_sd"):
            pytest.skip("this host exchanges the model")
        monkeypatch.setitem(host.shared.opts.data, "refiner_fast_sd", True)
    return {"refiner_checkpoint": host.title("sd1-b"), "refiner_switch_at": 0.5, "steps": 6}


REFINED = [("dynamic", "model"), ("fixed", "model"), ("dynamic", "weights")]


@pytest.mark.parametrize(("source", "way"), REFINED)
def test_a_refiner_takes_over_in_mid_run(host, load, monkeypatch, source, way):
    """``way``: whether the model is exchanged or, Neo's ``refiner_fast_sd``, its weights alone."""
    asked = refined(host, load, monkeypatch, way)
    plain = make(host, "txt2img", **asked)
    same = make(host, "txt2img", **asked, **ticked(curvature=1e-9, mask_source=source))
    made = make(host, "txt2img", **asked, **ticked(curvature=0.9, mask_source=source))
    assert "Refiner" in plain.parameters
    unrefined = make(host, "txt2img", steps=6)
    assert apart(plain.images[0], unrefined.images[0]) > 3  # it did switch
    assert apart(plain.images[0], same.images[0]) <= 1
    if source == "fixed":  # two passes would need the first model back
        assert "refiner" in made.parameters["AsynDM note"]
        assert np.array_equal(plain.images[0], made.images[0])
    else:
        assert "AsynDM note" not in made.parameters
        assert apart(plain.images[0], made.images[0]) > 3
    assert np.array_equal(make(host, "txt2img", steps=6).images[0], unrefined.images[0])
    hooks = {
        name: len(m._forward_hooks) + len(m._forward_pre_hooks)
        for name, m in host.root().named_modules()
    }
    assert not any(hooks.values())


@pytest.mark.parametrize("way", ["model", "weights"])
def test_a_refiner_has_a_table_of_its_own(host, load, monkeypatch, way):
    """Levelled norms: the weights that took over are read by a table of theirs, and by no other."""
    from asyndm.hosts import levelling, shims

    asked = refined(host, load, monkeypatch, way)
    walk = partial(levelling.from_walk, pictures=1, timesteps=(0, 500, 999))
    monkeypatch.setattr(levelling, "from_walk", walk)
    for file in shims.norms_place().glob("*"):
        file.unlink()
    levelling._TABLES._held.clear()

    def tables(name: str | None = None, **more) -> set[str]:
        if name:
            host.checkpoint(name)
        made = make(host, "txt2img", **more, **ticked(curvature=0.9, norms="levelled"))
        assert "AsynDM note" not in made.parameters
        return {file.name for file in shims.norms_place().glob("*.safetensors")}

    first = tables(steps=3)
    both = tables(**asked)
    assert len(first) == 1 and len(both) == 2 and first < both
    # The other is the second checkpoint's own, and the first's is still the first's.
    assert tables("sd1-b", steps=3) == both and tables("sd1", steps=3) == both


def test_soft_inpainting(host, monkeypatch):
    from modules import scripts

    runner = scripts.scripts_img2img
    script = next(s for s in runner.alwayson_scripts if s.title() == "Soft Inpainting")
    names = type(script).process.__globals__
    if "cpu_count" in names:  # Forge's gives the picture back as it was on 6 processors or fewer
        monkeypatch.setitem(names, "cpu_count", lambda: 7)

    def both(**settings):
        scripts = {"Soft Inpainting": {"args": [True, 1, 0.5, 4, 0, 0.5, 2]}}
        if settings:
            scripts["AsynDM"] = {"args": [settings]}
        return make(host, "inpaint", alwayson_scripts=scripts).images[0]

    plain = both()
    assert apart(plain, np.asarray(scene())) > 3
    assert apart(plain, both(curvature=1e-9)) <= 1
    assert apart(plain, both(curvature=0.9)) > 3


@pytest.mark.parametrize("name", ["Doggettx", "sdp", "sdp-no-mem", "sub-quadratic", "V1", "None"])
def test_every_attention_optimisation(host, name):
    if host.backend != "A1111":
        pytest.skip("this host has its own attention, chosen on its command line")
    from modules import sd_hijack

    option = next((o for o in sd_hijack.optimizers if o.name.lower() == name.lower()), None)
    before = sd_hijack.current_optimizer
    if option is not None:
        sd_hijack.model_hijack.apply_optimizations(option.title())
    elif name == "None":
        sd_hijack.model_hijack.apply_optimizations("None")
    else:
        pytest.skip(f"this host has no optimisation {name}")
    try:
        plain = make(host, "txt2img")
        assert (
            apart(plain.images[0], make(host, "txt2img", **ticked(curvature=1e-9)).images[0]) <= 1
        )
        assert apart(plain.images[0], make(host, "txt2img", **ticked(curvature=0.9)).images[0]) > 3
    finally:
        sd_hijack.model_hijack.apply_optimizations(before.title() if before else None)


@pytest.mark.parametrize(
    "options",
    [{"token_merging_ratio": 0.5}, {"hypertile_enable_unet": True, "hypertile_swap_size_unet": 3}],
)
def test_token_merging_and_hypertile(host, options):
    if not set(options) <= set(host.shared.opts.data_labels):
        pytest.skip("this host has no such option")
    asked = {"override_settings": options, "width": 256, "height": 256, "steps": 3}
    plain = make(host, "txt2img", **asked)
    made = make(host, "txt2img", **asked, **ticked(curvature=0.9))
    assert apart(plain.images[0], made.images[0]) > 3
    assert "AsynDM note" not in made.parameters


@pytest.mark.parametrize("sampler", ["Euler a", "DPM++ 2M"])
def test_zero_terminal_snr(host, load, sampler, monkeypatch):
    """A table of noise levels that ends at 4518 instead of 14.6, which only v can bear."""
    load("sd2-v")
    if "sd_noise_schedule" not in host.shared.opts.data_labels:
        pytest.skip("this host has no such option")
    usual = make(host, "txt2img", sampler_name=sampler)
    monkeypatch.setitem(host.shared.opts.data, "sd_noise_schedule", "Zero Terminal SNR")
    plain = make(host, "txt2img", sampler_name=sampler)
    same = make(host, "txt2img", sampler_name=sampler, **ticked(curvature=1e-9))
    made = make(host, "txt2img", sampler_name=sampler, **ticked(curvature=0.9))
    monkeypatch.undo()
    make(host, "txt2img", sampler_name=sampler)  # puts the model's table back
    assert apart(usual.images[0], plain.images[0]) > 3
    assert apart(plain.images[0], same.images[0]) <= 1
    assert apart(plain.images[0], made.images[0]) > 3
    assert "AsynDM note" not in made.parameters


def test_another_network_in_the_place_of_the_unet_is_one_line(host):
    if host.backend != "A1111":
        pytest.skip("this host has no SD Unet")
    from modules import sd_unet

    class Elsewhere(sd_unet.SdUnet):
        option = SimpleNamespace(label="[TRT] test")

        def forward(self, x, timesteps, context, *args, **kwargs):
            return x * 0.9

    plain = make(host, "txt2img")
    sd_unet.current_unet = Elsewhere()
    try:
        without = make(host, "txt2img")
        made = make(host, "txt2img", **ticked(curvature=0.9))
    finally:
        sd_unet.current_unet = None
    assert np.array_equal(without.images[0], made.images[0])
    assert apart(plain.images[0], made.images[0]) > 3
    assert "[TRT] test" in made.parameters["AsynDM note"]


def test_the_live_preview_is_the_true_prediction(host):
    """What the host stores for its preview is the sampler's D, not a mixture of noise levels."""
    import torch
    from modules import sd_samplers_common
    from modules.sd_samplers_kdiffusion import KDiffusionSampler

    stored, predicted = [], []
    store, state = sd_samplers_common.store_latent, KDiffusionSampler.callback_state

    def callback(self, step):
        predicted.append(step["denoised"].clone())
        state(self, step)

    sd_samplers_common.store_latent = lambda latent: stored.append(latent.clone())
    KDiffusionSampler.callback_state = callback
    host.shared.opts.data["live_preview_content"] = "Combined"
    try:
        make(host, "txt2img", **ticked(curvature=0.9))
    finally:
        sd_samplers_common.store_latent = store
        KDiffusionSampler.callback_state = state
        host.shared.opts.data.pop("live_preview_content")
    assert len(stored) == len(predicted) == 5
    for one, two in zip(stored, predicted):
        torch.testing.assert_close(one, two)


def test_adetailers_inner_passes_stay_synchronous(host):
    from modules import processing, scripts

    runner = copy.copy(scripts.scripts_txt2img)
    runner.alwayson_scripts, runner.callback_map = [], {}  # ADetailer leaves most scripts out

    def draw(inner: bool, sampler: str):
        p = processing.StableDiffusionProcessingTxt2Img(
            sd_model=host.shared.sd_model,
            prompt=PROMPT,
            seed=1,
            steps=4,
            width=128,
            height=128,
            sampler_name=sampler,
            do_not_save_samples=True,
            do_not_save_grid=True,
        )
        p.scripts = runner
        if inner:
            p._ad_inner = True
        return np.asarray(processing.process_images(p).images[0])

    assert np.array_equal(draw(True, "AsynDM"), draw(False, "Euler a"))
    assert apart(draw(False, "AsynDM"), draw(False, "Euler a")) > 3  # a sampler without the script
