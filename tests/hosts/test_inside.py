"""What is asked of a host's own function, of functions that answer in both ways."""

from __future__ import annotations

import adams_oracles
import pytest
import rule_oracles
import torch

from asyndm.core.run import Director
from asyndm.core.sampling import sample_asyndm


@pytest.mark.parametrize("rule", ["ipndm", "ipndm_v", "lms"])
@pytest.mark.parametrize("lower", [False, True])
def test_how_a_multistep_sampler_ends_is_asked_of_it(host, rule, lower):
    """Forge's IPNDM and LMS step to 0 in their full order, Neo's LMS takes the prediction."""
    from core_toys import PARAMETRISATIONS, random_masks

    from asyndm.hosts.inside import options_inside

    def twin(model, x, sigmas, extra_args=None, callback=None, disable=None):
        levels, off = sigmas.tolist(), rule_oracles.Bounds(on=False)
        oracle = (rule_oracles.WRITTEN | adams_oracles.WRITTEN)[rule]
        return oracle(model, x, sigmas, levels, off, lower_order_final=lower)

    options = options_inside(rule, twin, {}, None)
    assert options == {"lower_order_final": lower}
    sigmas = torch.tensor([9.0, 5.0, 2.0, 1.0, 0.3, 0.0])
    x = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(0)) * sigmas[0]
    eps = PARAMETRISATIONS["eps"]
    director = Director(eps, random_masks(1, (1e-9,)))

    def model(x, sigma):
        return rule_oracles.pointwise(x, director.call.pixel_time.sigma_map())

    ours = sample_asyndm(model, x, sigmas, disable=True, director=director, rule=rule, **options)
    theirs = twin(rule_oracles.pointwise, x, sigmas)
    assert (ours - theirs).abs().max() <= 1e-4 * theirs.abs().max()


@pytest.mark.parametrize("rule", ["euler", "unipc", "deis", "ddpm_vp"])
def test_others_are_not_asked(host, rule):
    from asyndm.hosts.inside import options_inside

    def twin(*arguments, **named):
        raise AssertionError("a sampler that nothing is asked of was called")

    assert options_inside(rule, twin, {}, None) == {}


def sigma_to_half_log_snr(sigma, predictor):
    return sigma.logit().neg()


def offset_first_sigma_for_snr(sigmas, predictor):
    return torch.cat([sigmas.new_tensor([0.9]), sigmas[1:]]) if predictor == "flow" else sigmas


def of_comfyui(model, x, sigmas, **_):
    return sigma_to_half_log_snr(offset_first_sigma_for_snr(sigmas, model.predictor), None)


def of_k_diffusion(model, x, sigmas, **_):
    return sigmas.log().neg()


def test_which_sde_samplers_know_flow_is_asked_of_them(host):
    from asyndm.hosts.calls import SamplingCall

    def knows(rule, twin):
        return SamplingCall(rule, twin, None, None, None, None, None, None, {}).knows_flow

    for rule in ("dpmpp_2m_sde", "dpmpp_sde", "er_sde", "seeds_3", "sa_solver"):
        assert knows(rule, of_comfyui) and not knows(rule, of_k_diffusion)
    assert knows("heun", of_k_diffusion) and not knows("ddim", of_comfyui)


def test_the_first_level_is_the_twins(host):
    from asyndm.hosts.inside import levels_of

    sigmas = torch.tensor([1.0, 0.5, 0.0])
    assert levels_of(of_comfyui, sigmas, "flow").tolist() == pytest.approx([0.9, 0.5, 0.0])
    assert torch.equal(levels_of(of_comfyui, sigmas, "eps"), sigmas)
    assert levels_of(of_k_diffusion, sigmas, "flow") is sigmas
