"""Stable Diffusion 3 and 3.5, Flux and Chroma in a real WebUI, with tiny models."""

from __future__ import annotations

import os
from collections.abc import Iterator

import numpy as np
import pytest
import torch
from driver import bare_images
from flow_models import forget_prompts, lent, lora_of
from jobs import PROMPT, PROMPTS, Traces, apart, make, note, request, ticked
from matrix import pairs, run

pytestmark = pytest.mark.skipif(
    not os.environ.get("ASYNDM_WEBUI_DIR"), reason="needs a real WebUI: its own engines"
)
MODELS = {
    "A1111": ["sd3"],
    "Forge": ["sd3", "sd35", "flux", "chroma"],
    "Neo": [
        *("lumina", "z-image", "qwen", "flux", "flux2"),
        *("anima", "krea", "wan", "ernie", "chroma"),
    ],
}
CROSS_ALONE = ("anima", "wan")  # no joint attention: words are read from cross-attention
CROSS = {
    "text_timestep": "this model's text is told no time; it changes nothing.",
    "softmax": "this model's words are read from cross-attention, over the text alone; "
    "it changes nothing.",
}
PLAIN = {"scheduler": "Simple", "steps": 4}
UNTICKED = ("txt2img", "hires", "inpaint")


@pytest.fixture(params=sorted({name for names in MODELS.values() for name in names}))
def model(host, request):
    yield from having(host, request.param)


def having(host, name: str) -> Iterator[str]:
    """With that model loaded, where the host has its like."""
    if name not in MODELS.get(host.name, ()):
        pytest.skip(f"{host.name} has no {name}")
    host.checkpoint("sd1")
    with lent(host, name):
        host.txt2img(prompt="", steps=1, scheduler="Simple")  # hosts leave notes at a first use
        yield name


def steers(
    host, kind: str = "txt2img", least: float = 0, settings: dict | None = None, within: int = 1,
    **more,
):  # fmt: skip
    """Nothing is said, k 1e-9 is the picture unticked, and .9 moves it; returns those two."""
    settings = {"objects": "cat", **(settings or {})}
    plain = make(host, kind, **more)
    same = make(host, kind, **more, **ticked(curvature=1e-9, **settings))
    moved = make(host, kind, **more, **ticked(curvature=0.9, **settings))
    assert not note(same) and not note(moved), note(moved) or note(same)
    assert apart(plain.images[0], same.images[0]) <= within
    assert apart(plain.images[0], moved.images[0]) > max(least, within - 1)
    return plain, moved


def asked(name: str) -> dict:
    """Flux at the host's own CFG 1."""
    return {**PLAIN, "cfg_scale": 1} if name == "flux" else dict(PLAIN)


@pytest.fixture(scope="module")
def bare(host, tmp_path_factory):
    """The same jobs of a host that has no AsynDM."""
    jobs = {
        f"sd1+{name}": {kind: request(kind, **asked(name)) for kind in UNTICKED}
        for name in MODELS.get(host.name, ())
    }
    return bare_images(host, jobs, tmp_path_factory.mktemp("bare") / "images.npz")


def test_not_ticked_is_the_host_without_the_extension(host, model, traces, bare) -> None:
    make(host, "txt2img", **asked(model), **ticked(objects="cat", curvature=0.9))
    for kind in UNTICKED:
        made = make(host, kind, **asked(model))
        assert np.array_equal(np.stack(made.images), bare[f"sd1+{model}: {kind}"]), kind


@pytest.mark.parametrize("sampler", ["Euler", "Euler a", "DPM++ 2M"])
def test_a_curvature_near_zero_is_the_twin(host, model, traces, sampler) -> None:
    more = {**asked(model), "sampler_name": sampler}
    plain = make(host, "txt2img", **more)
    made = make(host, "txt2img", **more, **ticked(objects="cat", curvature=1e-9))
    assert not note(made), note(made)
    assert apart(plain.images[0], made.images[0]) <= 1
    assert np.asarray(plain.images[0]).std() > 5


OTHERS = (
    "Heun",
    "DPM2",
    "DPM2 a",
    "LMS",
    "IPNDM",
    "IPNDM_V",
    "DEIS",
    "Res Multistep",
    "RES Multistep",
)
# Neo's are ComfyUI's, which have a form for flow; the others' are k-diffusion's, which have none.
SDE = ("DPM++ SDE", "DPM++ 2M SDE", "DPM++ 3M SDE", "ER SDE")


@pytest.mark.parametrize("sampler", [*OTHERS, *SDE])
def test_every_other_rule_with_a_form_for_flow_is_the_twin_too(host, model, traces, sampler):
    from modules import sd_samplers

    if sampler not in sd_samplers.all_samplers_map or model not in ("flux", "sd3"):
        pytest.skip("one family that a host has tells; a stand-in, those k-diffusion has")
    if sampler in SDE and host.name != "Neo":
        pytest.skip("as k-diffusion has it: test_what_has_no_form_is_one_line")
    if sampler == "DPM2 a" and model == "sd3":
        pytest.skip("Forge's knows flow with Flux alone")
    more = {**asked(model), "sampler_name": sampler, "scheduler": "Simple"}
    plain = make(host, "txt2img", **more)
    made, moved = (
        make(host, "txt2img", **more, **ticked(objects="cat", curvature=k)) for k in (1e-9, 0.9)
    )
    assert not note(made) and not note(moved), note(made)
    assert apart(plain.images[0], made.images[0]) <= 1 < apart(plain.images[0], moved.images[0])


def test_an_object_lags(host, model, traces) -> None:
    more = {**asked(model), "sampler_name": "Euler"}
    plain = make(host, "txt2img", **more)
    for settings in ({}, {"softmax": "joint"}, {"text_timestep": "objects"}):
        made = make(
            host, "txt2img", **more, **ticked(objects="cat, dog", curvature=0.9, **settings)
        )
        lines = [f"{name}: {CROSS[name]}" for name in settings if model in CROSS_ALONE]
        assert note(made) == " ".join(lines), note(made)
        assert apart(plain.images[0], made.images[0]) > 1


def three(name: str) -> dict:
    """Of Wan a host makes a video's frames, not a batch: three images are three batches."""
    return {"n_iter": 3} if name == "wan" else {"batch_size": 3}


def test_image_j_of_a_batch_is_the_image_alone(host, model, traces) -> None:
    more = {**asked(model), "sampler_name": "Euler a", **ticked(objects="cat", curvature=0.9)}
    together = make(host, "txt2img", **three(model), **more)
    alone = make(host, "txt2img", seed=3, **more)
    assert apart(together.images[2], alone.images[0]) <= 1


# What of a guidance takes a part in a network that is no U-Net.
WAYS = {
    "cfg": {},
    "cfg++": {"guidance": "cfg++", "cfgpp_lambda": 0.7},
    "cfg++w": {"guidance": "cfg++w", "cfgpp_lambda": 0.7},
    "apg": {"guidance": "apg"},
    "interval": {"interval_low": 0.3, "interval_high": 0.9},
    "concave": {"clock": "concave"},
    "z": {"zigzag": 1.0},
}


@pytest.mark.parametrize("way", WAYS)
def test_image_j_with_methods_of_guidance(host, model, traces, way) -> None:
    """They run, say nothing, and an image of a batch is the image alone; alone or with AsynDM."""
    more = {**PLAIN, "sampler_name": "Euler", "cfg_scale": 3}
    plain = make(host, "txt2img", **more)
    for clock in ({"clock": "synchronous"}, {}) if way not in ("cfg", "concave") else ({},):
        moving = {} if clock else {"objects": "cat", "curvature": 0.9}
        settings = {**moving, **WAYS[way], **clock}
        together = make(host, "txt2img", **three(model), **more, **ticked(**settings))
        alone = make(host, "txt2img", seed=3, **more, **ticked(**settings))
        assert not note(together), note(together)
        assert apart(together.images[2], alone.images[0]) <= 1
        assert apart(together.images[0], plain.images[0]) > 0
        assert ("curvature" in together.parameters["AsynDM"]) is (not clock)


def stacks(host, model: str, prompt: str) -> None:
    """Skip what the host itself cannot: it stacks Krea 2's parts, also those of unequal length."""
    if (model, prompt) != ("krea", "AND"):
        return
    with pytest.raises(RuntimeError, match="stack expects each tensor to be equal size"):
        make(host, "txt2img", **asked(model), prompt=PROMPTS[prompt])
    pytest.skip("the host itself: it stacks Krea 2's parts of a prompt, whatever their length")


CELLS = pairs(["Euler", "Euler a", "DPM++ 2M", "AsynDM"])


@pytest.mark.parametrize("sampler, kind, prompt, ending", CELLS)
def test_kinds_prompts_and_endings_by_pairs(host, model, sampler, kind, prompt, ending) -> None:
    stacks(host, model, prompt)
    more = {"scheduler": "Simple", "cfg_scale": asked(model).get("cfg_scale", 4)}
    assert run(host, kind, 1, prompt, ending, 128, sampler, more=more) is None


@pytest.mark.parametrize("prompt", PROMPTS)
def test_prompts(host, model, traces, prompt) -> None:
    stacks(host, model, prompt)
    more = {**asked(model), "sampler_name": "Euler", "prompt": PROMPTS[prompt]}
    if (model, prompt) == ("wan", "BREAK"):  # Neo shows this network what is ahead of a weight
        plain, made = (make(host, "txt2img", **more, **way) for way in ({}, ticked(objects="cat")))
        assert note(made) == "no object word is in the prompt (cat). The image is synchronous."
        assert apart(made.images[0], plain.images[0]) == 0
        return
    steers(host, **more)


@pytest.mark.parametrize("size", [(136, 128), (128, 120), (136, 120), (72, 200)])
def test_odd_sizes(host, model, traces, size) -> None:
    """Latents of odd sides: Stable Diffusion 3 fails on them in the hosts by itself."""
    more = {**asked(model), "sampler_name": "Euler", "width": size[0], "height": size[1]}
    try:
        make(host, "txt2img", **more)
    except Exception as error:
        assert model.startswith("sd3")
        pytest.skip(f"the host itself: {type(error).__name__}: {str(error).splitlines()[0]}")
    for softmax in ("text", "joint") if model not in CROSS_ALONE else ("text",):
        steers(host, settings={"softmax": softmax}, **more)


@pytest.mark.parametrize("sampler", ["Euler", "Euler a", "DPM++ 2M"])
def test_cfg_1(host, model, traces, sampler) -> None:
    steers(host, **PLAIN, sampler_name=sampler, cfg_scale=1)


@pytest.mark.parametrize("kind", ["img2img", "inpaint", "hires"])
def test_other_jobs(host, model, traces, kind) -> None:
    steers(host, kind, least=1, **asked(model), sampler_name="Euler")


@pytest.fixture
def t5(host, model, monkeypatch):
    if not model.startswith("sd3"):
        pytest.skip("Stable Diffusion 3 has a T5 that can be switched")
    engine = getattr(getattr(host.shared.sd_model, "cond_stage_model", None), "model_t5", None)
    if engine is not None and not hasattr(engine.tokenizer, "convert_ids_to_tokens"):
        pytest.skip("T5's tokenizer is not in the hub's cache")
    monkeypatch.setitem(host.shared.opts.data, "sd3_enable_t5", True)
    forget_prompts()
    yield
    forget_prompts()


def test_t5_is_read_at_places_of_its_own(host, model, traces, t5) -> None:
    more = {**asked(model), "sampler_name": "Euler"}
    for softmax in ("text", "joint"):
        for prompt, chunks in ((PROMPT, 1), (PROMPTS["long"], 3)):
            _, moved = steers(host, settings={"softmax": softmax}, **more, prompt=prompt)
            cat = moved.parameters["AsynDM matched"][0]["cat"]
            clip, t5 = (
                [at for at in cat if (at >= 77 * chunks) is later] for later in (False, True)
            )
            # Its pieces begin with "a cat" or, in older tokenizers, with a mark of its own.
            assert clip == [2] and t5[0] - 77 * chunks in (1, 2), cat
    # Forge main's own T5 makes two rows of a prompt with BREAK, and fails.
    for prompt in ("AND", "editing", *(["BREAK"] if host.name == "A1111" else [])):
        steers(host, **more, prompt=PROMPTS[prompt])


def test_lora(host, model, traces) -> None:
    """One of every projection in the blocks, so also where hooks silence and apply."""
    more = {**asked(model), "sampler_name": "Euler"}
    without = make(host, "txt2img", **more)
    with lora_of(host, model) as name:
        plain, _ = steers(host, **more, prompt=f"{PROMPT} <lora:{name}:1>")
    assert apart(without.images[0], plain.images[0]) > 1
    assert np.array_equal(make(host, "txt2img", **more).images[0], without.images[0])


def test_the_preset_flow_is_taken_where_nobody_set_a_curvature(host, model) -> None:
    more = {**asked(model), "sampler_name": "Euler"}
    made = make(host, "txt2img", **more, **ticked(objects="cat"))
    assert "curvature=0.3" in made.parameters["AsynDM"]
    set_ = make(host, "txt2img", **more, **ticked(objects="cat", curvature=0.5))
    assert "curvature=0.5" in set_.parameters["AsynDM"]
    assert apart(made.images[0], set_.images[0]) > 0


def test_guidance_runs_or_says_one_line(host, model, traces) -> None:
    more = {**PLAIN, "sampler_name": "Euler", "cfg_scale": 3}
    for method in ("apg", "cfg++"):
        made = make(host, "txt2img", **more, **ticked(objects="cat", guidance=method))
        assert not note(made), note(made)
    for method in ("s-cfg", "seg", "pag", "tpg"):
        made = make(host, "txt2img", **more, **ticked(objects="cat", guidance=method))
        assert "works on a U-Net's attention" in note(made)


def test_what_has_no_form_is_one_line(host, model, traces) -> None:
    sampler = "UniPC" if host.name == "Neo" else "DPM++ SDE"
    made = make(host, "txt2img", **asked(model), sampler_name=sampler, **ticked(objects="cat"))
    assert "rectified-flow" in note(made)
    unticked = make(host, "txt2img", **asked(model), sampler_name=sampler)
    assert np.array_equal(made.images[0], unticked.images[0])


@pytest.mark.parametrize("scheduler", ["Automatic", "Uniform"])
def test_lists_of_which_a_host_makes_nothing_by_itself(host, model, traces, scheduler) -> None:
    """Forge main's own: two zeros at the end (SD3), timesteps for noise levels (Flux); Neo's
    Uniform: either, by whether a network is told sigma itself."""
    more = {**asked(model), "sampler_name": "Euler", "scheduler": scheduler}
    if host.name != "Forge" and (host.name, scheduler) != ("Neo", "Uniform"):
        steers(host, **more)
        return
    plain = make(host, "txt2img", **more)
    made = make(host, "txt2img", **more, **ticked(objects="cat", curvature=0.9))
    if model.startswith(("sd3", "ernie", "wan")):  # a step without noise is left out
        assert not note(made) and made.images[0].std() > 5 > plain.images[0].std()
        if host.name == "Neo":
            return
        few = {**more, "steps": 2, "denoising_strength": 0.3}
        made, plain = (make(host, "img2img", **few, **tick) for tick in (ticked(objects="cat"), {}))
        line = "begins at 0"
    else:
        line = "this model's end at 1"
    assert line in note(made) and "Simple" in note(made) and "\n" not in note(made)
    assert np.array_equal(made.images[0], plain.images[0])


def test_distilled_guidance(host, model, traces) -> None:
    if model != "flux":
        pytest.skip("of Flux.1")
    more = {**asked(model), "sampler_name": "Euler"}
    weak, _ = steers(host, **more, distilled_cfg_scale=1.5)
    strong, _ = steers(host, **more, distilled_cfg_scale=8)
    assert apart(weak.images[0], strong.images[0]) > 0


def test_a_shift_is_read_when_a_run_starts(host, model, traces) -> None:
    if host.name not in ("A1111", "Forge"):
        pytest.skip("Forge Neo sets it for each job by itself")
    model_sampling = getattr(host.root(), "predictor", None) or host.root().model.model_sampling
    own, more = model_sampling.sigmas, {**asked(model), "sampler_name": "DPM++ 2M"}
    first, _ = steers(host, **more)
    even = torch.arange(1, len(own) + 1) / len(own)
    model_sampling.sigmas = 12 * even / (1 + 11 * even)
    try:
        second, _ = steers(host, **more)
    finally:
        model_sampling.sigmas = own
    assert apart(first.images[0], second.images[0]) > 0
    assert np.array_equal(make(host, "txt2img", **more).images[0], first.images[0])


@pytest.mark.parametrize("way", ["nunchaku", "torch.compile", "torch.compile around"])
def test_a_network_nobody_sees_into_is_one_line_and_a_synchronous_image(host, model, way) -> None:
    """Compiled by torch's ``eager`` compiler; nunchaku's by the name of a class alone."""
    network, more = host.network(), {**asked(model), "sampler_name": "Euler"}
    part = next(
        m for name, m in network.named_modules() if name.endswith(("mlp", "feed_forward", "ffn"))
    )
    if way == "nunchaku":
        name, own = "SVDQW4A4Linear", {"__module__": "nunchaku.models.linear"}
        network.part = type(name, (torch.nn.Identity,), own)()
    elif way == "torch.compile":
        part.compile(backend="eager")
    else:
        part.forward = torch.compile(part.forward, backend="eager")
    kept = Traces(host)
    try:
        plain = make(host, "txt2img", **more)
        for settings in ({}, {"guidance": "apg"}, {"clock": "synchronous", "guidance": "cfg++"}):
            made = make(host, "txt2img", **more, **ticked(objects="cat", **settings))
            assert way.split()[0] in note(made)
            assert note(made).count("The image is synchronous.") == 1 and "\n" not in note(made)
            assert np.array_equal(plain.images[0], made.images[0])
            kept.check()
    finally:
        part._compiled_call_impl = None
        vars(part).pop("forward", None)
        vars(network)["_modules"].pop("part", None)
    moved = make(host, "txt2img", **more, **ticked(objects="cat", curvature=0.9))
    assert not note(moved) and apart(plain.images[0], moved.images[0]) > 0
