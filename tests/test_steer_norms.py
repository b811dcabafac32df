"""asyndm.steer with levelled norms: calibrated in the first call, the core's own correction."""

from __future__ import annotations

import pytest
import torch
from steer_toys import GENERAL, PROMPTS, STRONG, Toys, close, hooks, made, schedule, steered

from asyndm import Settings
from asyndm.core.masks import DynamicMasks
from asyndm.core.rows import Rows
from asyndm.core.run import Director
from asyndm.core.sampling import sample_asyndm
from asyndm.guidance import Guide
from asyndm.guidance.denoiser import MethodDenoiser
from asyndm.network import attach
from asyndm.network.calibrate import PICTURES, TIMESTEPS, from_walk
from asyndm.network.norms import LevelledNorms
from asyndm.pipelines.prompts import PipelineWords
from asyndm.pipelines.schedulers import HostTimesteps, form_of, parametrisation_of

LEVELLED = Settings(curvature=0.7, norms="levelled")
WALK = len(TIMESTEPS)


@pytest.fixture(scope="module")
def toys(tmp_path_factory):
    return Toys(tmp_path_factory.mktemp("norms"))


@pytest.fixture
def pipe(toys, monkeypatch):
    """Nothing is known of its norms yet."""
    from asyndm.pipelines import levelling

    pipe = toys.pipe()
    levelling.forget(pipe.unet)
    schedule(pipe, monkeypatch)
    return pipe


def calls_of(pipe, monkeypatch):
    """The rows of every run of the network, its calibration's too (which no hook sees)."""
    seen, own = [], pipe.unet.forward

    def forward(sample, *args, **kwargs):
        seen.append(len(sample))
        return own(sample, *args, **kwargs)

    monkeypatch.setattr(pipe.unet, "forward", forward)
    return seen


def by_the_core(pipe, settings, norms, steps=4, scale=5.0):
    """The same run by the core's own loop."""
    scheduler = pipe.scheduler
    scheduler.set_timesteps(steps)
    parametrisation, form = parametrisation_of(scheduler), form_of(scheduler)
    levels = form.levels(scheduler, 0, steps)
    words = PipelineWords(pipe, PROMPTS, "")
    capture = words.capture()
    masks = DynamicMasks(capture, words.curvatures(settings.curvature))
    told = HostTimesteps(parametrisation, levels)
    director = Director.from_settings(settings, parametrisation, masks, timestep=told)
    guide = Guide(settings, parametrisation, director.call, 2, steps)
    guide.begin(levels.sigmas.tolist())
    noise = torch.cat(
        [torch.randn(1, 4, 16, 16, generator=torch.Generator().manual_seed(s)) for s in (3, 4)]
    )
    cond, uncond = pipe.encode_prompt(PROMPTS, "cpu", 1, True)
    with torch.no_grad(), attach(pipe.unet, director.call, capture, norms):
        return sample_asyndm(
            MethodDenoiser(pipe.unet, parametrisation, director.call, guide),
            (noise * scheduler.init_noise_sigma).float(),
            levels.sigmas.float(),
            extra_args={"cond": cond, "uncond": uncond, "cond_scale": scale},
            disable=True, director=director, rule="euler",
        )  # fmt: skip


def test_the_pipeline_s_loop_is_the_core_s(pipe):
    cond, uncond = pipe.encode_prompt(PROMPTS, "cpu", 1, True)
    with torch.no_grad():
        table = from_walk(
            pipe.unet,
            (torch.zeros(4, 4, 16, 16), torch.tensor(999.0), torch.cat([uncond, cond])),
            {}, Rows.uncond_then_cond(2), parametrisation_of(pipe.scheduler),
        )  # fmt: skip
    mine, result = steered(pipe, LEVELLED)
    close(mine, by_the_core(pipe, LEVELLED, LevelledNorms(table)))
    assert (mine - by_the_core(pipe, LEVELLED, None)).abs().max() > 1e-3
    assert result.notes == [
        f"norms: calibrated for this network ({WALK} network calls, which rows do not count)."
    ]


@pytest.mark.parametrize(
    ("family", "kind"),
    [("2.1", "text"), ("XL", "text"), ("1.5", "inpaint 9"), ("XL", "inpaint"), ("1.5", "control")],
)
def test_every_kind_of_u_net(family, kind, toys):
    pipe = toys.pipe(family, kind)
    plain = made(pipe, kind)
    close(steered(pipe, Settings(curvature=1e-9, norms="levelled"), kind)[0], plain)
    levelled, result = steered(pipe, LEVELLED, kind)
    assert torch.isfinite(levelled).all()
    assert (levelled - steered(pipe, STRONG, kind)[0]).abs().max() > 1e-3
    assert [one.rows for one in result.measured] == [8, 8]
    assert hooks(pipe) == 0 and torch.equal(made(pipe, kind), plain)


def test_it_is_calibrated_once_for_what_the_network_is(pipe, monkeypatch):
    calls = calls_of(pipe, monkeypatch)

    def walked(settings=LEVELLED, **changes):
        calls.clear()
        _, result = steered(pipe, settings, **changes)
        return len(calls) - 4, len(result.notes)

    assert walked() == (WALK, 1) and walked() == (0, 0)
    assert walked(prompts=PROMPTS[:1]) == (0, 0)  # a batch of another size
    assert walked(GENERAL) == (0, 0)
    assert walked(guidance_scale=1.0) == (WALK, 1)  # other kinds of rows
    assert walked(height=64, width=64) == (WALK, 1)  # another class of sizes
    pipe.enable_freeu(s1=0.9, s2=0.2, b1=1.2, b2=1.4)
    assert walked() == (WALK, 1)
    pipe.disable_freeu()
    assert walked() == (0, 0)
    with torch.no_grad():  # as a LoRA that was fused
        weight = pipe.unet.down_blocks[0].resnets[0].conv1.weight
        before = weight.clone()
        weight.data += 0.01
    assert walked() == (WALK, 1)
    weight.data.copy_(before)
    assert walked() == (0, 0)
    assert PICTURES == 2 and walked(prompts=PROMPTS[:1], height=24, width=24)[0] == 2 * WALK


def test_an_interrupt_in_the_calibration_leaves_nothing(pipe, monkeypatch):
    plain = made(pipe)
    own, seen = pipe.unet.forward, []

    def forward(*args, **kwargs):
        seen.append(1)
        if len(seen) == 5:
            raise KeyboardInterrupt
        return own(*args, **kwargs)

    with monkeypatch.context() as patched:
        patched.setattr(pipe.unet, "forward", forward)
        with pytest.raises(KeyboardInterrupt):
            steered(pipe, LEVELLED)
    assert hooks(pipe) == 0 and torch.equal(made(pipe), plain)


def test_where_it_changes_nothing_it_is_said(pipe):
    _, result = steered(pipe, Settings(norms="levelled", clock="synchronous"))
    assert result.notes == ["norms: no pixel's noise level differs here; it changes nothing."]
