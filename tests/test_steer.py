"""asyndm.steer: every kind of pipeline with every scheduler, and all of it left as it was.

Runs on both ends of the supported versions of diffusers, too.
"""

from __future__ import annotations

import itertools
from types import SimpleNamespace

import diffusers
import pytest
import torch
from steer_toys import (
    FAMILIES,
    GENERAL,
    KINDS,
    PROMPTS,
    STRONG,
    Toys,
    close,
    hooks,
    made,
    steered,
)

import asyndm
from asyndm.core.settings import SettingsError
from asyndm.network import UnsupportedNetwork

SDE = {"algorithm_type": "sde-dpmsolver++"}
# Every scheduler by name, with changes of its configuration.
SCHEDULERS = {
    "euler": ("EulerDiscreteScheduler", {}),
    "euler a": ("EulerAncestralDiscreteScheduler", {}),
    "ddim": ("DDIMScheduler", {}),
    "ddpm": ("DDPMScheduler", {}),
    "2m": ("DPMSolverMultistepScheduler", {}),
    "2m sde": ("DPMSolverMultistepScheduler", SDE),
}
# Their lists and orders, in other configurations.
VARIANTS = {
    "euler karras": ("EulerDiscreteScheduler", {"use_karras_sigmas": True}),
    "euler linspace": ("EulerDiscreteScheduler", {"timestep_spacing": "linspace"}),
    "euler trailing": ("EulerDiscreteScheduler", {"timestep_spacing": "trailing"}),
    "ddim trailing": ("DDIMScheduler", {"timestep_spacing": "trailing"}),
    "ddim linspace": ("DDIMScheduler", {"timestep_spacing": "linspace", "steps_offset": 0}),
    "ddim to one": ("DDIMScheduler", {"set_alpha_to_one": True, "steps_offset": 0}),
    "ddim without signal": (
        "DDIMScheduler",
        {"timestep_spacing": "trailing", "rescale_betas_zero_snr": True},
    ),
    "2m karras": (
        "DPMSolverMultistepScheduler",
        {"use_karras_sigmas": True, "euler_at_final": True},
    ),
    "2m to least": ("DPMSolverMultistepScheduler", {"final_sigmas_type": "sigma_min"}),
    "2m heun": ("DPMSolverMultistepScheduler", {"solver_type": "heun"}),
    "2m of order 1": ("DPMSolverMultistepScheduler", {"solver_order": 1}),
    "2m sde heun karras": (
        "DPMSolverMultistepScheduler",
        {**SDE, "solver_type": "heun", "use_karras_sigmas": True, "timestep_spacing": "trailing"},
    ),
}
# Each kind with each scheduler, the families in turn.
PAIRS = [
    (kind, name, family)
    for (kind, name), family in zip(
        itertools.product(KINDS, SCHEDULERS), itertools.cycle([*FAMILIES, "XL", *FAMILIES])
    )
]


@pytest.fixture(scope="module")
def toys(tmp_path_factory):
    return Toys(tmp_path_factory.mktemp("steer"))


@pytest.fixture
def scheduled(toys, monkeypatch):
    """(kind, family, scheduler) -> the pipeline with that scheduler, for one test."""

    def pipe_of(name="euler", kind="text", family="1.5"):
        pipe = toys.pipe(family, kind)
        own, changes = {**SCHEDULERS, **VARIANTS}[name]
        made = getattr(diffusers, own).from_config(pipe.scheduler.config, **changes)
        monkeypatch.setattr(pipe, "scheduler", made)
        return pipe

    return pipe_of


# The same pipelines as others by another argument, or two of them in one.
SLOW = ("inpaint part", "control image", "control inpaint")


@pytest.mark.parametrize(
    ("kind", "name", "family"),
    [
        pytest.param(*pair, id=" - ".join(pair), marks=[pytest.mark.slow] * (pair[0] in SLOW))
        for pair in PAIRS
    ],
)
def test_without_curvature_it_is_the_pipeline_s_own_picture(kind, name, family, scheduled):
    pipe = scheduled(name, kind, family)
    steps = 4 if "strength" in KINDS[kind][1] else 3
    plain = made(pipe, kind, PROMPTS[:1], steps)
    same, result = steered(pipe, GENERAL, kind, PROMPTS[:1], steps)
    close(same, plain)
    assert result.notes == [] and len(result.film) == 3
    assert hooks(pipe) == 0


@pytest.mark.parametrize("name", VARIANTS)
def test_a_scheduler_s_own_list_is_honoured(name, scheduled):
    pipe = scheduled(name, family="2.1" if "signal" in name else "1.5")
    close(steered(pipe, GENERAL, "text", PROMPTS[:1])[0], made(pipe, "text", PROMPTS[:1]))


@pytest.mark.parametrize(
    ("kind", "name", "family"),
    [
        ("text", "euler a", "1.5"),
        ("text", "2m sde", "XL"),
        ("image", "ddim", "2.1"),
        ("inpaint", "2m", "XL"),
        ("inpaint 9", "euler", "1.5"),
        ("control", "ddpm", "1.5"),
    ],
)
def test_curvature_moves_it_and_a_batch_s_image_is_the_image_alone(kind, name, family, scheduled):
    pipe = scheduled(name, kind, family)
    plain = made(pipe, kind)
    moved, _ = steered(pipe, STRONG, kind)
    assert (moved - plain).abs().amax((1, 2, 3)).min() > 1e-2
    alone, _ = steered(pipe, STRONG, kind, PROMPTS[1:], seeds=(4,))
    close(alone, moved[1:])
    assert torch.equal(made(pipe, kind), plain) and hooks(pipe) == 0


def test_the_pipeline_is_left_as_it_was(scheduled):
    pipe = scheduled("2m", "inpaint")
    before, scheduler = {**vars(pipe)}, pipe.scheduler
    kind, plain, names = type(pipe), made(pipe, "inpaint"), set(vars(scheduler))

    def stop(pipe, step, timestep, values):
        if step == 1:
            raise KeyboardInterrupt
        return values

    with asyndm.steer(pipe, STRONG) as result:
        assert isinstance(pipe, kind) and type(pipe).__name__ == kind.__name__
        with pytest.raises(KeyboardInterrupt):
            made(pipe, "inpaint", callback_on_step_end=stop)
        assert hooks(pipe) == 0 and len(result.film) == 2
        with pytest.raises(ValueError, match="prompt"):  # the pipeline's own
            made(pipe, "inpaint", prompt=None)
    assert type(pipe) is kind and set(vars(scheduler)) == names
    assert {n: v for n, v in vars(pipe).items() if n[0] != "_"} == {
        n: v for n, v in before.items() if n[0] != "_"
    }
    assert torch.equal(made(pipe, "inpaint"), plain)


def test_what_it_leaves_to_look_at(scheduled):
    pipe = scheduled()
    _, result = steered(pipe, STRONG)
    assert result.masks.shape == (2, 16, 16) and 0 < result.masks.mean() < 1
    assert result.words == [{"cat": [2], "bike": [5]}, {"cats": [2], "umbrella": [6]}]
    assert [one.rows for one in result.measured] == [8, 8]
    assert [round(one.w_eff, 4) for one in result.measured] == [5, 5]
    third, last = result.film[2].timestep, result.film[-1].timestep
    assert third.max() > third.min()  # objects are behind
    torch.testing.assert_close(last, last[0, 0, 0].expand(last.shape))  # all arrive
    image = made(pipe, output_type="pil")[0]
    assert result.heat_map(image, 1).size[0] >= 32 and result.strip(1).size[0] > 256


def test_no_object_word_is_the_pipeline_s_own_picture(scheduled):
    pipe = scheduled("euler a")
    plain = made(pipe, prompts=["and the", "of"])
    same, result = steered(pipe, STRONG, prompts=["and the", "of"])
    assert torch.equal(same, plain) and result.film == [] and result.masks is None
    assert result.notes == [
        "objects: no word of the prompt is matched; the picture is the pipeline's own."
    ]
    assert [one.rows for one in result.measured] == [8, 8]
    with pytest.raises(IndexError, match="there is no film"):
        result.strip()
    assert torch.equal(steered(pipe, asyndm.Settings(curvature=0))[0], made(pipe))


@pytest.mark.parametrize(
    ("kind", "changes", "says"),
    [
        ("PNDMScheduler", {}, "has no asynchronous form; set pipe.scheduler = EulerDiscrete"),
        ("HeunDiscreteScheduler", {}, "has no asynchronous form"),
        ("DDIMScheduler", {"clip_sample": True}, "clip_sample is for models of pixels"),
        ("DDIMScheduler", {"prediction_type": "sample"}, "predicts 'sample'"),
        ("DPMSolverMultistepScheduler", {"solver_order": 3}, "solver_order must be 1 or 2"),
        (
            "DPMSolverMultistepScheduler",
            {"algorithm_type": "dpmsolver", "final_sigmas_type": "sigma_min"},
            "algorithm_type must be",
        ),
        ("DDPMScheduler", {"variance_type": "fixed_large"}, "variance_type must be"),
    ],
)
def test_a_scheduler_without_a_form_is_one_line(kind, changes, says, scheduled, monkeypatch):
    pipe = scheduled()
    other = getattr(diffusers, kind).from_config(pipe.scheduler.config, **changes)
    monkeypatch.setattr(pipe, "scheduler", other)
    with pytest.raises(UnsupportedNetwork, match=says) as caught:
        steered(pipe, STRONG)
    assert "\n" not in str(caught.value)


def test_bad_input_is_one_line(scheduled):
    pipe = scheduled()
    with asyndm.steer(pipe, STRONG), pytest.raises(RuntimeError, match="steered already"):
        steered(pipe, STRONG)
    with pytest.raises(UnsupportedNetwork, match="does not know object"):
        steered(object(), STRONG)
    flow = SimpleNamespace(transformer=torch.nn.Linear(1, 1), encode_prompt=None, scheduler=None)
    with pytest.raises(UnsupportedNetwork, match="does not know this network .Linear."):
        steered(flow, STRONG)
    with pytest.raises(SettingsError, match="zigzag: cfg"):
        steered(pipe, asyndm.Settings(zigzag=0.5, guidance="cfg++"))
