"""Rectified-flow models in WebUIs: what needs no WebUI to be tried."""

from __future__ import annotations

import math
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from asyndm.core.rules import Ddpm
from asyndm.core.settings import Settings, SettingsError
from asyndm.hosts import infotext, transformers, webui
from asyndm.hosts.calls import SamplingCall
from asyndm.network.wan import WanHooks


class DiscreteFlow:
    """As the hosts have it for Stable Diffusion 3."""

    def __init__(self, shift: float) -> None:
        even = torch.arange(1, 1001) / 1000
        self.sigmas = shift * even / (1 + (shift - 1) * even)

    def timestep(self, sigma):
        return sigma * 1000


class Flux:
    """As Forge has it: told sigma itself."""

    def __init__(self, mu: float) -> None:
        even = torch.arange(1, 10001) / 10000
        self.sigmas = math.exp(mu) / (math.exp(mu) + (1 / even - 1))

    def timestep(self, sigma):
        return sigma


@pytest.mark.parametrize(
    ("predictor", "least", "multiplier"),
    [(DiscreteFlow(3.0), 0.00299, 1000), (Flux(1.15), 0.000316, 1), (Flux(1.0), 0.000272, 1)],
)
def test_a_predictor_tells_its_table_and_its_timestep(predictor, least, multiplier) -> None:
    made = transformers.rectified(predictor)
    assert made.flow and made.multiplier == multiplier
    assert float(made.sigmas[0]) == pytest.approx(least, rel=5e-3)
    assert float(made.sigmas[-1]) == pytest.approx(1)
    sigma = torch.tensor([0.3, 0.9])
    assert torch.allclose(made.timestep(sigma), (sigma * multiplier).double())


def run(rule: str = "ddpm", sampler: str = "Euler a", flow_twin: bool = False):
    notes = []
    job = SamplingCall(
        rule, None, None, torch.zeros(1, 16, 4, 4), torch.tensor([1.0, 0.5, 0.0]),
        None, None, None, {},
    )  # fmt: skip
    return SimpleNamespace(
        network=lambda: nn.Linear(1, 1), settings=Settings(), job=job, notes=notes,
        parametrisation=transformers.rectified(DiscreteFlow(3.0)),
        telling=SimpleNamespace(note=notes.append), ancestral_is_flow=lambda: flow_twin,
        p=SimpleNamespace(sampler=SimpleNamespace(config=SimpleNamespace(name=sampler))),
    )  # fmt: skip


def test_a_sampler_without_a_form_is_one_line() -> None:
    transformers.check(run())
    with pytest.raises(SettingsError, match="'Euler a' has no asynchronous form"):
        transformers.check(run("dpmpp_sde"))
    told = run()
    told.settings = Settings(softmax="joint", text_timestep="objects")
    transformers.check(told)
    assert [line.split(":")[0] for line in told.notes] == ["text_timestep", "softmax"]


@pytest.mark.parametrize(
    ("levels", "line"),
    [
        ([0.9997, 0.8568, 0.5996, 0.0, 0.0], None),  # Forge's "Automatic" on SD3, 4 steps
        ([0.0, 0.0], "begins at 0"),  # and what img2img may take of it
        ([9999.0, 6666.0, 3333.0, 0.0, 0.0], "up to 9999 .* this model's end at 1"),  # on Flux
        ([1.0, 0.5, 0.1], None),
        ([0.003, 0.0], None),
    ],
)
def test_lists_that_no_rectified_flow_has_are_one_line(levels, line) -> None:
    call = replace(run().job, listed=torch.tensor(levels))
    if line is None:
        transformers.check_levels(call.sigmas)
        return
    with pytest.raises(SettingsError, match=line) as told:
        transformers.check_levels(call.sigmas)
    assert "Simple" in str(told.value) and "\n" not in str(told.value)


def test_euler_a_follows_its_twin_and_asyndm_is_the_rectified_form() -> None:
    how, options = {"rule": "ddpm"}, {"eta": 0.7, "s_noise": 1.0}
    made = transformers.like_twin(run(), how, options)["rule"]
    assert type(made) is Ddpm and made.eta == 0.7
    assert transformers.like_twin(run(sampler="AsynDM"), how, options) == how
    assert transformers.like_twin(run(flow_twin=True), how, options) == how
    assert transformers.like_twin(run(), {"rule": "euler"}, {}) == {"rule": "euler"}


class MMDiT(nn.Module):
    parts = ("x_embedder", "t_embedder", "context_embedder", "joint_blocks", "final_layer")

    def __init__(self) -> None:
        super().__init__()
        for name in self.parts:
            setattr(self, name, nn.Identity())


class Wan(MMDiT):
    parts = WanHooks.known_by


def test_what_a_network_with_cross_attention_alone_takes_no_part_in_is_one_line_each() -> None:
    for network, names in ((MMDiT(), []), (Wan(), ["text_timestep", "softmax"])):
        told = run()
        told.network = lambda network=network: network
        told.settings = Settings(softmax="joint", text_timestep="objects")
        transformers.check(told)
        assert [line.split(":")[0] for line in told.notes] == names
        assert all(line.endswith("; it changes nothing.") for line in told.notes)


@pytest.mark.parametrize(
    ("sent", "k"),
    [({}, 0.3), ({"curvature": 0.5}, 0.5), ({"preset": "strong"}, 0.9), ({"preset": "flow"}, 0.3)],
)
def test_the_preset_flow_is_taken_only_where_nobody_set_a_curvature(sent, k) -> None:
    plan = webui.make_plan([{"objects": "cat", **sent}], "Euler")
    assert transformers.take_flow_preset(plan, MMDiT())
    assert plan.settings.curvature == k
    told = infotext.to_text(plan.settings, always=plan.taken.always)
    assert f"curvature={k}" in told and infotext.from_text(told).curvature == k
    plan = webui.make_plan([{"objects": "cat", **sent}], "Euler")
    assert not transformers.take_flow_preset(plan, nn.Linear(1, 1))


def test_a_synchronous_clock_takes_no_k_and_is_not_told_of_one() -> None:
    """Guidance alone on a transformer: a k that nobody set would be said to change nothing."""
    plan = webui.make_plan([{"clock": "synchronous", "guidance": "apg"}], "Euler")
    assert not transformers.take_flow_preset(plan, MMDiT())
    assert plan.settings.curvature == Settings().curvature and not plan.taken.always


def test_the_page_always_says_a_curvature() -> None:
    """A line of parameters without one means .5 for ever, and fills the page with that."""
    assert webui.make_plan([True, "cat", "quadratic", 0.5], "Euler").curvature_set
