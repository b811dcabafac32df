"""asyndm.steer: a pipeline of diffusers, asynchronous and left as it was."""

from __future__ import annotations

import pytest
import tiny_checkpoint
import torch

import asyndm
from asyndm.core.settings import SettingsError
from asyndm.network import UnsupportedNetwork

PROMPTS = ["a cat riding a bike", "two cats and a red umbrella"]
# Every scheduler by name, with changes of its configuration.
SCHEDULERS = {
    "euler": ("EulerDiscreteScheduler", {}),
    "euler karras": ("EulerDiscreteScheduler", {"use_karras_sigmas": True}),
    "euler linspace": ("EulerDiscreteScheduler", {"timestep_spacing": "linspace"}),
    "euler trailing": ("EulerDiscreteScheduler", {"timestep_spacing": "trailing"}),
    "euler a": ("EulerAncestralDiscreteScheduler", {}),
    "ddim": ("DDIMScheduler", {}),
    "ddim trailing": ("DDIMScheduler", {"timestep_spacing": "trailing"}),
    "ddim linspace": ("DDIMScheduler", {"timestep_spacing": "linspace", "steps_offset": 0}),
    "ddim to one": ("DDIMScheduler", {"set_alpha_to_one": True, "steps_offset": 0}),
    "ddpm": ("DDPMScheduler", {}),
    "2m": ("DPMSolverMultistepScheduler", {}),
    "2m karras": (
        "DPMSolverMultistepScheduler",
        {"use_karras_sigmas": True, "euler_at_final": True},
    ),
    "2m heun": ("DPMSolverMultistepScheduler", {"solver_type": "heun"}),
    "2m of order 1": ("DPMSolverMultistepScheduler", {"solver_order": 1}),
    "2m sde": ("DPMSolverMultistepScheduler", {"algorithm_type": "sde-dpmsolver++"}),
    "2m sde karras": (
        "DPMSolverMultistepScheduler",
        {
            "algorithm_type": "sde-dpmsolver++",
            "solver_type": "heun",
            "use_karras_sigmas": True,
            "timestep_spacing": "trailing",
        },
    ),
}
GENERAL = asyndm.Settings(curvature=1e-9)  # all of the general path, and no pixel moved
STRONG = asyndm.Settings(curvature=0.7)


@pytest.fixture(scope="module")
def pipe(tmp_path_factory):
    from asyndm.pipelines import Checkpoint

    return Checkpoint.load(tiny_checkpoint.save(tmp_path_factory.mktemp("sd1"))).pipe


def scheduled(pipe, name, monkeypatch):
    import diffusers

    kind, changes = SCHEDULERS[name]
    made = getattr(diffusers, kind).from_config(pipe.scheduler.config, **changes)
    monkeypatch.setattr(pipe, "scheduler", made)
    return pipe


def made(pipe, prompts=PROMPTS, steps=4, seeds=(3, 4), **changes):
    """Latents [B, 4, 16, 16]."""
    prompts = list(prompts)
    given = {
        "prompt": prompts,
        "generator": [torch.Generator().manual_seed(s) for s in seeds[: len(prompts)]],
        "num_inference_steps": steps,
        "guidance_scale": 5.0,
        "output_type": "latent",
        **changes,
    }
    return pipe(**given).images


def steered(pipe, settings, *args, **changes):
    with asyndm.steer(pipe, settings) as result:
        return made(pipe, *args, **changes), result


def close(one, two):
    """Within 1e-4 of the latents' size (random networks make them large)."""
    scale = max(1.0, float(two.abs().max()) / 4)
    torch.testing.assert_close(one, two, atol=1e-4 * scale, rtol=0)


@pytest.mark.parametrize("name", SCHEDULERS)
def test_without_curvature_it_is_the_pipeline_s_own_picture(pipe, name, monkeypatch):
    scheduled(pipe, name, monkeypatch)
    plain = made(pipe)
    same, result = steered(pipe, GENERAL)
    close(same, plain)
    assert result.notes == [] and len(result.film) == 4
    moved, _ = steered(pipe, STRONG)
    assert (moved - plain).abs().max() > 1e-2
    alone, _ = steered(pipe, STRONG, PROMPTS[1:], seeds=(4,))
    close(alone, moved[1:])
    assert torch.equal(made(pipe), plain)


def test_the_pipeline_is_left_as_it_was(pipe):
    before = {**vars(pipe)}
    scheduler = set(vars(pipe.scheduler))
    kind, plain = type(pipe), made(pipe)

    def stop(pipe, step, timestep, values):
        if step == 1:
            raise KeyboardInterrupt
        return values

    with asyndm.steer(pipe, STRONG):
        assert isinstance(pipe, kind) and type(pipe).__name__ == kind.__name__
        with pytest.raises(KeyboardInterrupt):
            made(pipe, callback_on_step_end=stop)
        assert not any(m._forward_hooks or m._forward_pre_hooks for m in pipe.unet.modules())
    assert type(pipe) is kind
    assert all(vars(pipe)[name] is value for name, value in before.items() if name[0] != "_")
    assert not {"step", "scale_model_input", "add_noise"} & set(vars(pipe.scheduler))
    assert scheduler - set(vars(pipe.scheduler)) == set()
    assert torch.equal(made(pipe), plain)


def test_what_it_leaves_to_look_at(pipe):
    latents, result = steered(pipe, STRONG)
    assert result.masks.shape == (2, 16, 16) and 0 < result.masks.mean() < 1
    assert result.words == [{"cat": [2], "bike": [5]}, {"cats": [2], "umbrella": [6]}]
    assert [one.rows for one in result.measured] == [8, 8]
    assert [round(one.w_eff, 4) for one in result.measured] == [5, 5]
    first, last = result.film[2].timestep, result.film[-1].timestep
    assert first.max() > first.min()  # objects are behind
    torch.testing.assert_close(last, last[0, 0, 0].expand(last.shape))  # all arrive


def test_no_object_word_is_the_pipeline_s_own_picture(pipe):
    plain = made(pipe, ["and the", "of"])
    same, result = steered(pipe, STRONG, ["and the", "of"])
    assert torch.equal(same, plain) and result.film == [] and result.masks is None
    assert result.notes == [
        "objects: no word of the prompt is matched; the picture is the pipeline's own."
    ]
    assert [one.rows for one in result.measured] == [8, 8]
    assert torch.equal(steered(pipe, asyndm.Settings(curvature=0))[0], made(pipe))


def test_one_line_says_what_to_do(pipe, monkeypatch):
    import diffusers

    config = pipe.scheduler.config
    with monkeypatch.context() as patch:
        patch.setattr(pipe, "scheduler", diffusers.PNDMScheduler.from_config(config))
        with pytest.raises(UnsupportedNetwork, match="PNDMScheduler has no .* EulerDiscrete"):
            steered(pipe, STRONG)
    with pytest.raises(SettingsError, match="norms"):
        steered(pipe, asyndm.Settings(norms="levelled"))
    with asyndm.steer(pipe, STRONG), pytest.raises(RuntimeError, match="steered already"):
        steered(pipe, STRONG)
    with pytest.raises(UnsupportedNetwork, match="does not know object"):
        steered(object(), STRONG)
