"""Methods of guidance in a host: identities, rows, and what nobody else may notice."""

from __future__ import annotations

import re
from contextlib import contextmanager

import numpy as np
import pytest
import torch
from conftest import REAL
from jobs import KINDS, PROMPTS, Traces, apart, make, note, painted, ticked
from matrix import pairs, run

from asyndm.guidance.cfgpp import step_down, weight_of
from asyndm.guidance.methods import METHODS

STEPS = 4
ALONE = {"clock": "synchronous"}
WAYS = {**{name: {"guidance": name} for name in METHODS if name != "cfg"}, "z": {"zigzag": 1.0}}
# A blur in a random model's middle, 2 cells wide here, changes next to nothing.
WAYS["seg"]["perturbed_scale"] = 10
# The stand-ins take each kind of method once, and reForge's what its backend has a part in.
SOME = WAYS if REAL else ["s-cfg", "pag", "cfg++", "z"]
CROSSED = [(name, kind) for name in WAYS for kind in ("hires", "inpaint")]
if not REAL:
    CROSSED = [("pag", "hires"), ("s-cfg", "inpaint"), ("cfg++", "inpaint")]
    CROSSED.append(("z", "inpaint"))
# Strengths at which a method is the host's own CFG.
NEUTRAL = {
    "seg": {"perturbed_scale": 0},
    "pag": {"perturbed_scale": 0},
    "tpg": {"perturbed_scale": 0},
    "apg": {"apg_eta": 1, "apg_momentum": 0, "apg_norm": 0},
}


@pytest.fixture(autouse=True)
def once(host, request):
    """reForge's stand-in differs from Forge's by what it imports and how it inpaints."""
    alike = ("cfg_1", "inpaint", "without_strength")
    if not REAL and host.name == "reForge" and not any(n in request.node.name for n in alike):
        pytest.skip("as in Forge's stand-in")


def measured(made) -> tuple[int, float | None]:
    """(rows, w_eff) of the last image's parameters."""
    text = re.search(
        r"AsynDM measured: (.*?)(?:, AsynDM|, \w[\w ]*: |$)", made.info["infotexts"][-1]
    )
    rows = re.search(r"(\d+) rows", text[1])
    scale = re.search(r"w_eff ([\d.e+-]+)", text[1])
    return int(rows[1]), float(scale[1]) if scale else None


@pytest.mark.parametrize(
    "name,kind",
    [(n, k) for n in NEUTRAL for k in KINDS] if REAL else list(zip(NEUTRAL, KINDS)),
)
def test_a_method_without_strength_is_the_hosts_cfg(host, traces, name, kind):
    asked = {"sampler_name": "Euler", "prompt": PROMPTS["AND"] if kind == "txt2img" else "a cat"}
    plain = make(host, kind, **asked)
    made = make(host, kind, **asked, **ticked(**ALONE, guidance=name, **NEUTRAL[name]))
    assert not note(made)
    assert apart(plain.images[0], made.images[0]) <= 1


@pytest.mark.parametrize("sampler", ["DDIM", "DPM++ 2M", "Euler a"])
def test_so_it_is_with_other_samplers(host, traces, sampler):
    asked = {"sampler_name": sampler, "steps": STEPS}
    plain = make(host, "txt2img", **asked)
    made = make(host, "txt2img", **asked, **ticked(**ALONE, guidance="pag", perturbed_scale=0))
    assert apart(plain.images[0], made.images[0]) <= 1
    assert made.info["sampler_name"] == sampler


def test_one_clock_and_plain_cfg_is_the_hosts_own_bit_by_bit(host, traces):
    for sampler in ("Euler a", "PLMS"):
        plain = make(host, "txt2img", sampler_name=sampler)
        made = make(host, "txt2img", sampler_name=sampler, **ticked(**ALONE))
        assert np.array_equal(plain.images[0], made.images[0]) and not note(made)
        assert made.parameters["AsynDM"] == "clock=synchronous"
        assert "AsynDM measured" not in made.parameters


def test_concave_is_a_mask_of_all_pixels(host, traces):
    from PIL import Image

    everywhere = {"mask_source": "given", "curvature": 0.7}
    sent = make(
        host, "txt2img", **ticked(mask=_encoded(Image.new("L", (64, 64), 255)), **everywhere)
    )
    made = make(host, "txt2img", **ticked(clock="concave", curvature=0.7))
    assert apart(sent.images[0], made.images[0]) <= 1
    words = make(
        host, "txt2img", **ticked(clock="concave", objects="cat:0.7, dog:0.3", curvature=0.1)
    )
    assert apart(words.images[0], made.images[0]) <= 1


def _encoded(picture) -> str:
    import base64
    import io

    data = io.BytesIO()
    picture.save(data, "PNG")
    return base64.b64encode(data.getvalue()).decode()


@contextmanager
def scaled_by_step(host, scale):
    """The host's own CFG with another scale in every step: ``scale(step) -> w``."""
    from modules.sd_samplers_cfg_denoiser import CFGDenoiser

    plain = CFGDenoiser.forward

    def forward(self, x, sigma, **more):
        return plain(self, x, sigma, **{**more, "cond_scale": scale(self.step)})

    CFGDenoiser.forward = forward
    try:
        yield
    finally:
        CFGDenoiser.forward = plain


@pytest.mark.parametrize("sampler,eta", [("Euler", 0.0), ("Euler a", 1.0)])
def test_cfgpp_is_the_hosts_cfg_of_another_scale_a_step(host, traces, sampler, eta):
    """Both forms, beside the host's own sampler with w = lambda / (1 - down / sigma)."""
    from modules import script_callbacks

    seen = []

    def watch(params):
        seen.append(float(params.sigma[0]))

    script_callbacks.on_cfg_denoiser(watch)
    asked = {"sampler_name": sampler, "steps": STEPS, "prompt": "a cat"}
    exact, weight = (
        make(host, "txt2img", **asked, **ticked(**ALONE, guidance=name, cfgpp_lambda=0.7))
        for name in ("cfg++", "cfg++w")
    )
    script_callbacks.remove_callbacks_for_function(watch)
    levels = torch.tensor([*seen[:STEPS], 0.0], dtype=torch.float64)
    weights = [
        float(weight_of(0.7, a, step_down(a, b, eta, False), False))
        for a, b in zip(levels, levels[1:])
    ]
    with scaled_by_step(host, lambda step: weights[step]):
        plain = make(host, "txt2img", **asked)
    assert not note(exact) and not note(weight)
    assert apart(plain.images[0], weight.images[0]) <= 1
    assert apart(plain.images[0], exact.images[0]) <= 1


@contextmanager
def rows_seen(host):
    """The rows of all network calls inside the block, one number a call: counted here."""
    seen = []

    def see(module, args, kwargs):
        seen.append(len(args[0] if args else kwargs["x"]))

    hook = host.network().register_forward_pre_hook(see, with_kwargs=True)
    try:
        yield seen
    finally:
        hook.remove()


@pytest.mark.parametrize("name", WAYS)
def test_rows_as_counted_and_the_effective_guidance(host, traces, name):
    asked = {"sampler_name": "Euler", "steps": STEPS, "prompt": "a cat", "cfg_scale": 5}
    with rows_seen(host) as seen:
        made = make(host, "txt2img", **asked, **ticked(curvature=0.8, **WAYS[name]))
    rows, scale = measured(made)
    assert rows == sum(seen)
    if name == "z":
        # 2 + 2 + 2, and the last step does not zigzag
        assert (rows, scale) == (6 * (STEPS - 1) + 2, None)
    else:
        assert rows == (3 if name in ("seg", "pag", "tpg") else 2) * STEPS
        # What PAG adds can be at right angles to the guidance: the picture says that it acts.
        plain = make(host, "txt2img", **asked, **ticked(curvature=0.8))
        assert scale is not None and apart(plain.images[0], made.images[0]) > 1
    assert not note(made)


@pytest.mark.parametrize("kind", ["txt2img", "hires"])
def test_plain_guidance_tells_its_rows_and_its_scale(host, traces, kind):
    """AsynDM with the host's own CFG: what it ran, and the CFG scale of each pass."""
    asked = {"steps": STEPS, "cfg_scale": 5, "batch_size": 2, "prompt": PROMPTS["AND"]}
    if kind == "hires" and host.backend != "A1111":
        asked["hr_cfg"] = 3
    with rows_seen(host) as seen:
        made = make(host, kind, **asked, **ticked(curvature=0.8))
    said = made.info["infotexts"][-1].partition("AsynDM measured: ")[2].strip('"')
    each = [float(w) for w in re.findall(r"w_eff ([\d.]+)", said)]
    rows = [int(count) for count in re.findall(r"(\d+) rows", said)]
    assert sum(rows) == sum(seen) / 2  # of two pictures
    assert each == ([5.0] if kind == "txt2img" else [5.0, asked.get("hr_cfg", 5.0)])


def test_parts_of_a_prompt_are_rows_of_their_own(host, traces):
    asked = {"sampler_name": "Euler", "steps": STEPS, "prompt": PROMPTS["AND"]}
    for name in ("pag", "s-cfg"):
        made = make(host, "txt2img", **asked, **ticked(curvature=0.8, guidance=name))
        assert measured(made)[0] == (5 if name == "pag" else 3) * STEPS


def drops_rows(host) -> bool:
    """Whether the host itself leaves rows out of a step; Forge and Neo set its scale to 1."""
    return host.backend == "A1111" or (REAL and host.name == "reForge")


@pytest.mark.parametrize("name", ["seg", "cfg++", "s-cfg"])
def test_cfg_1_and_steps_without_unconditional_rows(host, traces, name):
    """What is left out is not missed; CFG++ has its rows where the host would leave them out."""
    from modules.shared import opts

    asked = {"sampler_name": "Euler", "steps": STEPS, "prompt": "a cat"}
    rows = []
    hook = host.network().time_embed.register_forward_hook(lambda *call: rows.append(len(call[2])))
    before, opts.skip_early_cond = opts.skip_early_cond, 0.5
    try:
        make(host, "txt2img", **asked, cfg_scale=5)
    finally:
        opts.skip_early_cond = before
        hook.remove()
    early_steps = 2 * STEPS - sum(rows)  # the host's own count: Neo's first step has them
    assert early_steps in (2, 3)
    settings = ticked(**ALONE, guidance=name)
    one = make(host, "txt2img", **asked, cfg_scale=1, **settings)
    before, opts.skip_early_cond = opts.skip_early_cond, 0.5
    try:
        early = make(host, "txt2img", **asked, cfg_scale=5, **settings)
    finally:
        opts.skip_early_cond = before
    more = STEPS * (name == "seg")
    left_out = host.backend != "A1111" and name != "cfg++"  # A1111 runs them at any scale
    if name == "cfg++" and note(one):  # Forge has none at all then, and it is said
        left_out = host.backend != "A1111" and "at CFG 1" in note(one)
    assert measured(one)[0] == STEPS * (1 if left_out else 2) + more
    assert (not note(one) or name == "cfg++") and one.images[0].std() > 0
    skipped = early_steps if drops_rows(host) or name != "cfg++" else 0
    assert measured(early)[0] == 2 * STEPS - skipped + more
    assert early.images[0].std() > 0


@pytest.mark.parametrize("left_out", ["early", "NGMS", "CFG 1"] if REAL else ["NGMS"])
@pytest.mark.parametrize("name", SOME if REAL else ["apg", "z"])
def test_what_a_host_leaves_out_beside_a_method(host, traces, monkeypatch, name, left_out):
    """*Skip early CFG*, NGMS, CFG 1: no unconditional rows, in parts of a prompt too."""
    from modules.shared import opts

    asked = {"sampler_name": "Euler", "steps": STEPS, "prompt": PROMPTS["AND"]}
    asked |= ticked(curvature=0.8, **WAYS[name])
    whole = make(host, "txt2img", **asked)
    if left_out == "early":
        monkeypatch.setitem(opts.data, "skip_early_cond", 0.5)
    # NGMS: below this noise every second step
    more = {"NGMS": {"s_min_uncond": 100}, "CFG 1": {"cfg_scale": 1}}.get(left_out, {})
    made = make(host, "txt2img", **{**asked, **more})
    # Forge runs CFG++'s rows all the same, but at CFG 1 it has none; A1111 runs them there.
    plusplus, a1111 = name.startswith("cfg++"), host.backend == "A1111"
    none = left_out == "CFG 1" and plusplus and not drops_rows(host)
    assert bool(note(made)) == none and ("at CFG 1" in note(made)) == none
    assert made.images[0].std() > 0
    if left_out == "CFG 1":
        fewer = not a1111 and (none or not plusplus)  # reForge runs CFG++'s
    else:
        fewer = drops_rows(host) or not plusplus
    assert (measured(made)[0] < measured(whole)[0]) == fewer
    if fewer or not plusplus:
        assert apart(made.images[0], whole.images[0]) > 0


@pytest.mark.parametrize("name", SOME if REAL else ["s-cfg", "pag"])
def test_image_j_of_a_batch_is_the_image_made_alone(host, traces, name):
    asked = {"sampler_name": "Euler a", "steps": STEPS, **ticked(curvature=0.8, **WAYS[name])}
    batch = make(host, "txt2img", batch_size=2, **asked)
    alone = make(host, "txt2img", seed=2, **asked)
    # S-CFG's regions turn over with rounding, a pixel now and then.
    assert apart(batch.images[-1], alone.images[0]) <= (3 if name == "s-cfg" else 1)
    assert measured(batch)[0] == measured(alone)[0]


@pytest.mark.parametrize("name,kind", CROSSED)
def test_kinds_of_jobs(host, traces, name, kind):
    plain = make(host, kind, **ticked(curvature=0.8))
    made = make(host, kind, **ticked(curvature=0.8, **WAYS[name]))
    assert not note(made)
    if kind == "hires":
        assert "hires: " in made.info["infotexts"][-1].partition("AsynDM measured")[2]
        return
    kept = np.asarray(painted().resize((128, 128))) == 0
    kept[24:104, 24:104] = False  # the blurred border of the mask, too
    # What inpainting keeps comes back as it was, whatever guides the rest.
    # (The decoder looks around, a random one further: up to 7 of 255 in Neo.)
    assert np.abs(plain.images[0].astype(int) - made.images[0])[kept].max() <= 10


SMALL = {"width": 192, "steps": 3}  # not square; SDXL on a CPU takes its time


@pytest.fixture(scope="module", params=["v", "sd2-v", "sdxl"])
def other(host, request):
    """(what another checkpoint's host keeps, the picture of the unticked box)."""
    if not host.has(request.param):
        pytest.skip(f"no checkpoint {request.param}")
    host.checkpoint(request.param)
    plain = make(host, "txt2img", **SMALL)  # hosts leave notes on a model at its first use
    yield Traces(host), plain.images[0]
    host.checkpoint("sd1")


@pytest.mark.parametrize("name", SOME if REAL else ["s-cfg"])
def test_other_models(host, other, name):
    kept, plain = other
    made = make(host, "txt2img", **SMALL, **ticked(curvature=0.8, **WAYS[name]))
    alone = make(host, "txt2img", **SMALL, **ticked(**ALONE, **WAYS[name]))
    again = make(host, "txt2img", **SMALL)
    kept.check()
    assert not note(made) and not note(alone) and measured(made)[0] == measured(alone)[0] > 0
    assert apart(plain, made.images[0]) > 3 < apart(made.images[0], alone.images[0])
    assert apart(plain, alone.images[0]) > 0
    assert np.array_equal(plain, again.images[0])


def test_nobody_sees_the_other_calls(host, traces, monkeypatch):
    """As many previews as there are steps, whether a run zigzags or not."""
    from modules import sd_samplers_common

    shown, plain = [], sd_samplers_common.store_latent
    monkeypatch.setattr(
        sd_samplers_common, "store_latent", lambda latents: (shown.append(1), plain(latents))[1]
    )
    for ways in ({}, {"zigzag": 1.0}, {"guidance": "seg"}):
        shown.clear()
        make(host, "txt2img", steps=STEPS, **ticked(curvature=0.8, **ways))
        assert len(shown) == STEPS


def test_a_sampler_without_a_form_of_cfgpp_says_what_to_choose(host, traces):
    asked = {"sampler_name": "Heun", "steps": STEPS}
    plain = make(host, "txt2img", **asked)
    made = make(host, "txt2img", **asked, **ticked(**ALONE, guidance="cfg++"))
    assert "choose cfg++w" in note(made)
    assert np.array_equal(plain.images[0], made.images[0])
    assert not note(make(host, "txt2img", **asked, **ticked(**ALONE, guidance="cfg++w")))


def test_without_object_words_guidance_stays(host, traces):
    asked = {"sampler_name": "Euler", "steps": STEPS, "prompt": "a cat"}
    told = make(host, "txt2img", **asked, **ticked(objects="shark", guidance="pag"))
    alone = make(host, "txt2img", **asked, **ticked(**ALONE, guidance="pag"))
    assert "no object word is in the prompt" in note(told)
    assert np.array_equal(told.images[0], alone.images[0])


def test_fixed_masks_are_made_without_the_method_and_counted(host, traces):
    asked = {"sampler_name": "Euler", "steps": STEPS, "prompt": "a cat"}
    made = make(host, "txt2img", **asked, **ticked(mask_source="fixed", guidance="pag"))
    assert measured(made)[0] == 5 * STEPS and not note(made)


def test_its_settings_are_restored_from_the_parameters(host, traces):
    from asyndm.hosts import infotext

    made = make(
        host, "txt2img", steps=STEPS, **ticked(clock="concave", guidance="cfg++", cfgpp_lambda=0.4)
    )
    text = made.parameters["AsynDM"]
    assert text.startswith("clock=concave; guidance=cfg++; cfgpp_lambda=0.4")
    settings = infotext.from_text(text)
    assert (settings.clock, settings.guidance, settings.cfgpp_lambda) == ("concave", "cfg++", 0.4)
    assert infotext.pasted({"AsynDM measured": "8 rows"}).guidance == "cfg"


# By pairs: every method, and what else is a method of the paper's table.
CELLS = {**WAYS, "interval": {"interval_low": 0.5, "interval_high": 8}}
CELLS |= {"concave": {"clock": "concave"}, "pag alone": {**ALONE, "guidance": "pag"}}
JOBS = [(cell[0], *cell[1:]) for cell in pairs(list(CELLS))]
if not REAL:  # the first of each kind of method
    JOBS = [("pag", "img2img", "AND", "interrupt"), ("z", "inpaint", "long", "exception")]


@pytest.mark.parametrize("name,kind,prompt,ending", JOBS)
def test_kinds_prompts_and_endings_by_pairs(host, name, kind, prompt, ending):
    sampler = "Euler a"
    assert run(host, kind, 2, prompt, ending, 128, sampler, 4, CELLS[name]) is None
