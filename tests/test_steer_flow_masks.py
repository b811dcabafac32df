"""asyndm.steer with Stable Diffusion 3.5 and Flux: masks, lists, adapters, what has no form."""

from __future__ import annotations

import copy
import inspect

import diffusers
import numpy as np
import pytest
import torch
from steer_flow_toys import FAMILIES, INSIDE, Toys, alike, made, moved, opened
from steer_toys import GENERAL, STRONG, close, hooks

from asyndm import Settings
from asyndm.core.settings import SettingsError
from asyndm.network import UnsupportedNetwork


@pytest.fixture(scope="module")
def toys(tmp_path_factory):
    return Toys(tmp_path_factory.mktemp("flow"))


@pytest.fixture(params=FAMILIES)
def family(request):
    return request.param


# --- masks ---


def test_given_masks_steer_where_they_are(toys, family):
    pipe = toys.pipe(family)
    square = np.zeros((32, 32), np.float32)
    square[8:24, 4:20] = 1
    given = Settings(curvature=0.7, mask_source="given")
    mine, result = moved(pipe, given, steering={"mask": square})
    assert (result.masks[0][INSIDE] == 1).all() and result.masks.mean() == 0.25
    assert (mine - made(pipe)).abs().max() > 1e-2
    alike(pipe, Settings(curvature=1e-9, mask_source="given"), steering={"mask": square})


def test_fixed_masks_are_read_in_a_pass_of_their_own(toys, family):
    pipe = toys.pipe(family)
    _, result = moved(pipe, Settings(curvature=0.7, mask_source="fixed"))
    each = 8 if family == "Flux" else 16
    assert [one.rows for one in result.measured] == [each, each]
    assert set(np.unique(result.masks)) == {0.0, 1.0}
    alike(pipe, Settings(curvature=1e-9, mask_source="fixed"))


def test_inpainting_keeps_what_it_keeps(toys, family):
    pipe = toys.pipe(family, "inpaint")
    plain = opened(made(pipe, "inpaint"))
    outside = torch.ones(16, 16, dtype=torch.bool)
    outside[INSIDE] = False
    for settings in (STRONG, Settings(curvature=1e-9, lead=0.6)):
        mine, result = moved(pipe, settings, "inpaint")
        mine = opened(mine)
        assert torch.equal(mine[..., outside], plain[..., outside])
        assert (mine - plain)[..., ~outside].abs().max() > 1e-2 and result.notes == []
    clock = torch.stack([frame.clock[0] for frame in result.film])
    here = clock[:, 0, 0]  # what leads runs at (1 - lead) times the distance that is left
    torch.testing.assert_close(here, 3 - 0.4 * (3 - torch.arange(4.0)), check_dtype=False)


def test_what_leads_is_blended_at_its_own_noise_level(toys, family):
    pipe = toys.pipe(family, "inpaint")
    seen = []

    def keep(pipe, step, timestep, values):
        seen.append(opened(values["latents"].clone()))
        return values

    settings = Settings(curvature=0.0001, lead=0.6, mask_source="given")
    _, result = moved(pipe, settings, "inpaint", callback_on_step_end=keep)
    clean, noises = seen[-1][..., 0, 0], []
    for step, latents in enumerate(seen[:-1]):
        level = result.film[step + 1].sigma[0, 0, 0]
        assert level < pipe.scheduler.sigmas[step + 1] or step == 2  # where all arrive
        noises.append((latents[..., 0, 0] - (1 - level) * clean) / level)
    for noise in noises[1:]:  # one noise, at each step's own level
        torch.testing.assert_close(noise, noises[0], atol=1e-3, rtol=1e-3)


# --- schedulers ---


@pytest.mark.parametrize(
    "changes",
    [
        {"shift": 1.0},
        {"use_karras_sigmas": True},
        {"shift_terminal": 0.1},
        {"stochastic_sampling": True},
    ],
    ids=lambda changes: next(iter(changes)),
)
def test_a_scheduler_s_own_list_is_honoured(toys, family, changes, monkeypatch):
    pipe = toys.pipe(family)
    kind = diffusers.FlowMatchEulerDiscreteScheduler
    if next(iter(changes)) not in inspect.signature(kind.__init__).parameters:
        pytest.skip("this diffusers does not know it")
    monkeypatch.setattr(pipe, "scheduler", kind.from_config(pipe.scheduler.config, **changes))
    torch.manual_seed(5)
    plain = made(pipe)
    torch.manual_seed(5)
    mine, _ = moved(pipe, GENERAL)
    close(mine, plain)


# --- what has no form ---


def test_what_has_no_form_is_one_line_each(toys, monkeypatch):
    pipe = toys.pipe("3.5")
    for name in ("pag", "seg", "tpg", "s-cfg"):
        with pytest.raises(UnsupportedNetwork, match="choose cfg, apg, cfg"):
            moved(pipe, Settings(guidance=name))
    with pytest.raises(SettingsError, match="skip_guidance_layers"):
        if "skip_guidance_layers" not in inspect.signature(type(pipe).__call__).parameters:
            raise SettingsError("skip_guidance_layers: not in this diffusers")
        moved(pipe, STRONG, skip_guidance_layers=[0])
    _, result = moved(
        pipe, Settings(curvature=0.7, norms="levelled", eta=0.5), steering={"grid": 8}
    )
    assert result.notes == [
        "norms: a transformer has no group norms; it changes nothing.",
        "eta: it changes nothing beside FlowMatchEulerDiscreteScheduler.",
        "grid: a transformer has one grid of tokens; it changes nothing.",
    ]
    heun = diffusers.FlowMatchHeunDiscreteScheduler.from_config(pipe.scheduler.config)
    monkeypatch.setattr(pipe, "scheduler", heun)
    with pytest.raises(UnsupportedNetwork, match="rectified-flow models; set pipe.sched"):
        moved(pipe, STRONG)


def test_networks_that_cannot_be_looked_into(toys, family):
    own = toys.pipe(family)
    pipe = type(own)(**{**own.components, "transformer": copy.deepcopy(own.transformer)})
    pipe.set_progress_bar_config(disable=True)
    if family == "3.5" or hasattr(pipe.transformer, "fuse_qkv_projections"):
        pipe.transformer.fuse_qkv_projections()
        with pytest.raises(UnsupportedNetwork, match="unfuse_qkv_projections"):
            moved(pipe, STRONG)
        pipe.transformer.unfuse_qkv_projections()
    if hasattr(pipe.transformer, "enable_cache"):
        pipe.transformer.enable_cache(diffusers.FirstBlockCacheConfig(threshold=0.1))
        with pytest.raises(UnsupportedNetwork, match="disable_cache"):
            moved(pipe, STRONG)
        pipe.transformer.disable_cache()
    assert torch.equal(moved(pipe, STRONG)[0], moved(own, STRONG)[0])  # the remedies are some
    own = {"__module__": "nunchaku.models.linear"}
    pipe.transformer.part = type("SVDQW4A4Linear", (torch.nn.Identity,), own)()
    cannot_be_steered(pipe, "nunchaku")
    del pipe.transformer.part
    pipe.transformer.transformer_blocks[0].ff.compile(backend="eager")
    cannot_be_steered(pipe, "switch torch.compile off")
    pipe.transformer = torch.compile(pipe.transformer.transformer_blocks[0], backend="eager")
    with pytest.raises(UnsupportedNetwork, match="switch torch.compile off"):
        moved(pipe, STRONG)


def cannot_be_steered(pipe, line):
    """One line, no hook, and outside the block the pipeline is what it was."""
    plain, own = made(pipe), type(pipe)
    with pytest.raises(UnsupportedNetwork, match=line) as told:
        moved(pipe, STRONG)
    assert "\n" not in str(told.value) and hooks(pipe) == 0 and type(pipe) is own
    assert torch.equal(made(pipe), plain)


def test_lora_and_offloading(toys, family, monkeypatch):
    accelerate = pytest.importorskip("accelerate", reason="pip install peft accelerate")
    peft = pytest.importorskip("peft", reason="pip install peft accelerate")
    own = toys.pipe(family)
    pipe = type(own)(**{**own.components, "transformer": copy.deepcopy(own.transformer)})
    pipe.set_progress_bar_config(disable=True)
    plain = made(pipe)
    torch.manual_seed(2)
    pipe.transformer.add_adapter(
        peft.LoraConfig(r=4, init_lora_weights=False, target_modules=["to_q", "to_k", "linear"])
    )
    assert (made(pipe) - plain).abs().max() > 1e-2
    alike(pipe, GENERAL)
    whole, _ = moved(pipe, STRONG)
    accelerate.cpu_offload(pipe.transformer.requires_grad_(False), torch.device("cpu"))
    monkeypatch.setattr(type(pipe), "_execution_device", torch.device("cpu"))
    assert torch.equal(moved(pipe, STRONG)[0], whole)


def test_half_precision(toys, family):
    own = toys.pipe(family)
    parts = {
        name: copy.deepcopy(part).to(torch.bfloat16) if isinstance(part, torch.nn.Module) else part
        for name, part in own.components.items()
    }
    pipe = type(own)(**parts)
    pipe.set_progress_bar_config(disable=True)
    plain = made(pipe)
    mine, result = moved(pipe, GENERAL)
    assert mine.dtype == torch.bfloat16 and len(result.film) == 4
    close(mine.float(), plain.float(), 0.05)
    assert (moved(pipe, STRONG)[0] - plain).abs().max() > 0.1


def test_a_checkpoint_loaded_in_half_precision_can_be_called(toys, family):
    """diffusers 0.39 leaves a part of Stable Diffusion 3's network in float32: it fails itself."""
    from asyndm.pipelines import load_pipeline

    toys.pipe(family)
    pipe = load_pipeline(toys.folder / family / "model", dtype=torch.bfloat16)
    mine, _ = moved(pipe, GENERAL)
    assert mine.dtype == torch.bfloat16 and torch.isfinite(mine).all()
