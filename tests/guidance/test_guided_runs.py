"""Every method in the engine: pictures, rows, what it leaves behind."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from asyndm.core.settings import Settings, SettingsError
from asyndm.guidance import METHODS
from asyndm.network.denoiser import GuidedDenoiser
from asyndm.scenes import pipeline as scenes
from asyndm.scenes.pipeline import Request, ScenePipeline

PROMPT = "a red circle and a blue square on a lake"
STEPS = 4
PERTURBED = ("seg", "pag", "tpg")
SHOWN = ("synchronous", "concave", "asyndm")


@pytest.fixture(scope="module")
def pipeline():
    return ScenePipeline.random(3)


def request(**changes) -> Request:
    return Request(**{"prompt": PROMPT, "steps": STEPS, "cfg": 3.0, **changes})


def settings(**changes) -> Settings:
    return Settings(enabled=True, curvature=0.8, **changes)


def latents(pipeline, method="asyndm", how=None, seeds=(0,), prompts=(PROMPT,), **changes):
    return pipeline.sample(
        list(prompts), list(seeds), method, settings(**changes), how or request()
    )


def test_plain_guidance_is_the_guided_denoiser_bit_by_bit(pipeline, monkeypatch):
    made = {method: latents(pipeline, method).latents for method in SHOWN}

    class Plain(GuidedDenoiser):
        def __init__(self, unet, parametrisation, call, guide):
            super().__init__(unet, parametrisation, call)

    monkeypatch.setattr(scenes, "MethodDenoiser", Plain)
    for method in SHOWN:
        assert torch.equal(made[method], latents(pipeline, method).latents)


@pytest.mark.parametrize("name", METHODS)
def test_rows_as_counted(pipeline, name):
    """And every method makes another picture, of another effective guidance."""
    made, plain = (latents(pipeline, guidance=each) for each in (name, "cfg"))
    assert made.measured[0].rows == (3 if name in PERTURBED else 2) * STEPS
    assert ((made.latents - plain.latents).abs().max() > 1e-3) == (name != "cfg")
    assert (made.measured[0].w_eff == pytest.approx(3, abs=1e-4)) == (name == "cfg")


@pytest.mark.parametrize(
    "changes,cfg,rows",
    [
        ({}, 1, STEPS),
        ({"guidance": "seg"}, 1, 2 * STEPS),
        ({"guidance": "cfg++"}, 1, 2 * STEPS),  # it needs both predictions whatever the scale
        ({"zigzag": 1.0}, 3, 5 * (STEPS - 1) + 2),  # 2 + 1 + 2, and the last step's 2
        ({"zigzag": 1.0, "zigzag_up": 2.0}, 3, 6 * (STEPS - 1) + 2),
        ({"zigzag": 0.4}, 3, 5 * 2 + 2 * (STEPS - 2)),
        ({"mask_source": "fixed", "guidance": "pag"}, 3, 5 * STEPS),  # the base pass is plain CFG
    ],
)
def test_rows_of_special_cases(pipeline, changes, cfg, rows):
    assert latents(pipeline, how=request(cfg=cfg), **changes).measured[0].rows == rows


def test_an_interval_saves_rows_where_all_pixels_share_a_clock(pipeline):
    limits = {"interval_low": 0.5, "interval_high": 5.0}
    synchronous = latents(pipeline, "synchronous", **limits).measured[0].rows
    assert STEPS < synchronous < 2 * STEPS
    assert latents(pipeline, **limits).measured[0].rows == 2 * STEPS
    # and what is saved changes nothing
    whole = {"interval_low": 1e-6, "interval_high": 9000.0}
    assert torch.equal(latents(pipeline).latents, latents(pipeline, **whole).latents) or (
        (latents(pipeline).latents - latents(pipeline, **whole).latents).abs().max() < 1e-4
    )


def test_the_effective_guidance_is_told(pipeline):
    assert latents(pipeline).measured[0].w_eff == pytest.approx(3, abs=1e-3)
    assert latents(pipeline, how=request(cfg=1)).measured[0].w_eff is None
    assert latents(pipeline, zigzag=1.0).measured[0].w_eff is None


@pytest.mark.parametrize("rule", ["ddpm", "euler"])
def test_both_forms_of_cfgpp_are_one_where_all_pixels_share_the_hosts_clock(pipeline, rule):
    how = request(rule=rule)
    exact, weight = (
        latents(pipeline, "synchronous", how, guidance=name) for name in ("cfg++", "cfg++w")
    )
    torch.testing.assert_close(exact.latents, weight.latents, atol=2e-3, rtol=2e-3)
    assert exact.measured[0].w_eff == pytest.approx(weight.measured[0].w_eff, rel=1e-3)
    both = [latents(pipeline, "asyndm", how, guidance=n).latents for n in ("cfg++", "cfg++w")]
    assert (both[0] - both[1]).abs().max() > 1e-3


@pytest.mark.parametrize("name", ["s-cfg", "tpg", "apg", "cfg++", "zigzag"])
def test_an_image_does_not_depend_on_its_batch(pipeline, name):
    changes = {"zigzag": 0.5} if name == "zigzag" else {"guidance": name}
    prompts = (PROMPT, "a green star", PROMPT)
    batch = latents(pipeline, seeds=(4, 5, 6), prompts=prompts, **changes)
    alone = latents(pipeline, seeds=(5,), prompts=prompts[1:2], **changes)
    # Rounding turns a pixel of S-CFG's over to the region of another token now and then.
    bound = 2e-2 if name == "s-cfg" else 2e-3
    assert (batch.latents[1] - alone.latents[0]).abs().max() < bound
    assert batch.measured[1].rows == alone.measured[0].rows
    if alone.measured[0].w_eff is not None:
        near = 2e-2 if name == "s-cfg" else 1e-3
        assert batch.measured[1].w_eff == pytest.approx(alone.measured[0].w_eff, rel=near)


class Stop(BaseException):
    pass


@pytest.mark.parametrize("name", ["s-cfg", "seg", "pag", "tpg", "zigzag"])
def test_nothing_is_left_behind(pipeline, name):
    def hooks():
        return sum(
            len(m._forward_hooks) + len(m._forward_pre_hooks) for m in pipeline.model.modules()
        )

    changes = {"zigzag": 1.0} if name == "zigzag" else {"guidance": name}
    before = hooks()

    def report(done, calls):
        if done == 2:
            raise Stop

    how = settings(**changes)
    with pytest.raises(Stop):
        pipeline.sample([PROMPT], [0], "asyndm", how, request(), report=report)
    assert hooks() == before


def test_neither_masks_nor_previews_see_the_other_calls(pipeline, monkeypatch):
    """As often read as there are steps, and the same masks as where nothing perturbs: step 1."""
    films = {}
    for name, changes in (("cfg", {}), ("seg", {"guidance": "seg"}), ("z", {"zigzag": 1.0})):
        result = pipeline.generate(request(), settings(**changes), ("asyndm",))
        films[name] = result.film
        assert len(result.film.previews) == len(result.film.masks) == STEPS
    for name in ("seg", "z"):
        assert np.array_equal(films["cfg"].masks[1], films[name].masks[1])
        assert films["cfg"].previews[0].tobytes() == films["z"].previews[0].tobytes()


def test_what_excludes_each_other_is_refused_before_anything_runs(pipeline):
    with pytest.raises(SettingsError, match="^zigzag: "):
        pipeline.generate(request(), settings(guidance="cfg++", zigzag=1.0))


def test_a_strength_of_another_method_is_said(pipeline):
    notes = pipeline.generate(request(), settings(seg_blur=3), ("synchronous",)).notes
    assert notes == ["seg_blur: it is of seg; it changes nothing beside cfg."]


def test_concave_for_all_takes_the_largest_k_of_the_prompt(pipeline):
    own = latents(pipeline, "concave", objects="circle:0.3, square:0.9").latents
    plain = pipeline.sample(
        [PROMPT], [0], "concave", Settings(enabled=True, curvature=0.9), request()
    ).latents
    assert torch.equal(own, plain)
