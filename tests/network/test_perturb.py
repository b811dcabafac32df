"""Perturbed network calls and S-CFG's attention, against plain formulas and diffusers' own."""

from __future__ import annotations

import math
from contextlib import contextmanager

import pytest
import torch
import torch.nn.functional as F
from conftest import make

from asyndm.core.rows import Rows
from asyndm.core.run import NetworkCall
from asyndm.network import UnsupportedNetwork, perturb
from asyndm.network.families import family_of
from asyndm.network.perturb import Perturbation, blur_tokens
from asyndm.network.regions import RegionReader, blur3, levels_read

FAMILIES = ["ldm_sd1", "ldm_sdxl", "diffusers_sd1", "diffusers_sdxl"]


def hooks(network) -> int:
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in network.modules())


@pytest.mark.parametrize("way", perturb.WAYS)
def test_hooks_do_nothing_until_they_are_on_and_are_gone_afterwards(small, way):
    inputs = small.inputs(2)
    plain, before = small(inputs, 500.0), hooks(small.unet)
    perturbation = Perturbation(way)
    with perturbation.watching(small.unet):
        assert torch.equal(small(inputs, 500.0), plain)
        with perturbation.on(1):
            made = small(inputs, 500.0)
        assert torch.equal(small(inputs, 500.0), plain)
    assert (made - plain).abs().max() > 1e-4
    assert hooks(small.unet) == before
    with pytest.raises(KeyError), perturbation.watching(small.unet), perturbation.on():
        raise KeyError
    assert hooks(small.unet) == before and torch.equal(small(inputs, 500.0), plain)


@contextmanager
def own_attention(case, function):
    """Self-attention of the middle as ``function(q, k, v) -> values``, written out once more."""
    middle = case.unet.middle_block if case.ldm else case.unet.mid_block
    attentions = [m.attn1 for m in middle.modules() if hasattr(m, "attn1")]
    assert attentions
    before = [a.forward for a in attentions]
    for attention in attentions:

        def forward(hidden_states, *args, attention=attention, **kwargs):
            q, k, v = (getattr(attention, f"to_{n}")(hidden_states) for n in "qkv")
            made = function(q, k, v, attention.heads)
            for layer in attention.to_out:
                made = layer(made)
            return made

        attention.forward = forward
    try:
        yield
    finally:
        for attention, forward in zip(attentions, before):
            attention.forward = forward


def attend(q, k, v, heads):
    q, k, v = (x.unflatten(-1, (heads, -1)).transpose(1, 2) for x in (q, k, v))
    weights = (q @ k.transpose(-1, -2) / math.sqrt(q.shape[-1])).softmax(-1)
    return (weights @ v).transpose(1, 2).flatten(2)


@pytest.mark.parametrize("name", FAMILIES)
def test_identity_is_attention_to_oneself_alone(name):
    case = make(name)
    inputs = case.inputs(2)
    with own_attention(case, lambda q, k, v, heads: v):
        want = case(inputs, 500.0)
    perturbation = Perturbation("identity")
    with perturbation.watching(case.unet), perturbation.on():
        torch.testing.assert_close(case(inputs, 500.0), want, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("name", FAMILIES)
def test_an_infinite_blur_gives_every_pixel_the_mean_query(name):
    case = make(name)
    inputs = case.inputs(2)

    def mean(q, k, v, heads):
        return attend(q.mean(dim=1, keepdim=True).expand_as(q), k, v, heads)

    with own_attention(case, mean):
        want = case(inputs, 500.0)
    perturbation = Perturbation("blur", 10_000.0)
    with perturbation.watching(case.unet), perturbation.on():
        torch.testing.assert_close(case(inputs, 500.0), want, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("size", [(8, 8), (7, 7), (6, 9), (1, 5), (2, 2)])
@pytest.mark.parametrize("sigma", [0.4, 1.0, 40.0])
def test_a_blur_is_a_gaussian_reflected_at_the_edges(size, sigma):
    height, width = size
    tokens = torch.randn(2, height * width, 3, generator=torch.Generator().manual_seed(1))
    image = tokens.transpose(1, 2).unflatten(-1, size)
    kernels = []
    for side in size:
        count = min(math.ceil(6 * sigma) + 1 - math.ceil(6 * sigma) % 2, side - side % 2 + 1)
        at = [math.exp(-0.5 * ((j - (count - 1) / 2) / sigma) ** 2) for j in range(count)]
        kernels.append(torch.tensor(at) / sum(at))
    down, across = (len(k) // 2 for k in kernels)
    kernel = (kernels[0][:, None] * kernels[1][None, :]).expand(3, 1, -1, -1)
    padded = F.pad(image, (across, across, down, down), mode="reflect")
    want = F.conv2d(padded, kernel, groups=3).flatten(2).transpose(1, 2)
    torch.testing.assert_close(blur_tokens(tokens, *size, sigma), want, atol=1e-5, rtol=1e-5)
    assert blur_tokens(tokens, *size, 0) is tokens


def test_the_order_of_shuffled_tokens_is_the_steps_and_the_blocks_alone():
    one, other, third = (perturb.places(64, *key) for key in ((3, 0), (3, 1), (4, 0)))
    assert torch.equal(one, perturb.places(64, 3, 0))
    assert torch.equal(one.sort()[0], torch.arange(64))
    assert not torch.equal(one, other) and not torch.equal(one, third)


def test_a_network_without_anything_to_perturb_is_refused():
    bare = torch.nn.Module()
    for way in perturb.WAYS:
        with pytest.raises(UnsupportedNetwork, match="could be perturbed"):
            with Perturbation(way).watching(bare):
                pass
    with pytest.raises(ValueError, match="way"):
        Perturbation("noise")


# --- diffusers' own guiders, where it has them (0.35 and later: the environment "highest") ---


def guiders():
    pytest.importorskip("diffusers.guiders", reason="diffusers 0.35 and later")
    import diffusers

    return diffusers


BLOCKS = "mid_block.attentions.0.transformer_blocks"


@pytest.mark.parametrize("name", ["diffusers_sd1", "diffusers_sd2", "diffusers_sdxl"])
def test_pag_is_that_of_diffusers(name):
    diffusers = guiders()
    from asyndm.guidance.base import Guess
    from asyndm.guidance.pag import Pag

    case = make(name)
    inputs = case.inputs(2)
    indices = list(range(len(case.unet.get_submodule(BLOCKS))))
    config = diffusers.hooks.LayerSkipConfig(
        indices, BLOCKS, skip_attention=False, skip_attention_scores=True, skip_ff=False
    )
    guider = diffusers.guiders.PerturbedAttentionGuidance(
        5.0, 3.0, perturbed_guidance_config=config, perturbed_guidance_stop=1.0
    )
    guider.set_state(5, 10, torch.tensor([500.0]))
    guider._count_prepared = 2  # the third prediction's turn is next
    guider.prepare_models(case.unet)
    try:
        worse = case(inputs, 500.0)
    finally:
        guider.cleanup_models(case.unet)
    perturbation = Perturbation("identity")
    with perturbation.watching(case.unet), perturbation.on():
        ours = case(inputs, 500.0)
    torch.testing.assert_close(ours, worse, atol=1e-5, rtol=1e-5)
    cond, uncond = case(inputs, 500.0), case(case.inputs(2, seed=1), 500.0)
    want = guider.forward(cond, uncond, worse).pred
    g = Guess(cond, uncond, torch.ones(1, 1, 1, 1), 5.0, perturbed=ours)
    torch.testing.assert_close(Pag(3.0).combine(g), want, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("ours,theirs", [(10_000.0, 1.0), (9_000.0, 1e6)])
def test_seg_is_that_of_diffusers(ours, theirs):
    """Its two branches stand the wrong way round: a small sigma is the mean, a large one blurs."""
    diffusers = guiders()
    from asyndm.guidance.base import Guess
    from asyndm.guidance.seg import Seg

    case = make("diffusers_sd1")
    square = case.inputs(2)
    square["x"] = torch.randn(2, 4, 32, 32, generator=torch.Generator().manual_seed(2))
    config = diffusers.hooks.SmoothedEnergyGuidanceConfig([0], BLOCKS)
    guider = diffusers.guiders.SmoothedEnergyGuidance(
        5.0, 3.0, theirs, seg_guidance_config=config, seg_guidance_start=0.0
    )
    guider.set_state(5, 10, torch.tensor([500.0]))
    guider._count_prepared = 3
    guider.prepare_models(case.unet)
    try:
        worse = case(square, 500.0)
    finally:
        guider.cleanup_models(case.unet)
    perturbation = Perturbation("blur", ours)
    with perturbation.watching(case.unet), perturbation.on():
        made = case(square, 500.0)
    plain = case(square, 500.0)
    assert (made - plain).abs().max() > 1e-3
    torch.testing.assert_close(made, worse, atol=1e-5, rtol=1e-4)
    uncond = plain.flip(0)
    want = guider.forward(plain, uncond, worse).pred
    g = Guess(plain, uncond, torch.ones(1, 1, 1, 1), 5.0, perturbed=made)
    torch.testing.assert_close(Seg(3.0).combine(g), want, atol=1e-4, rtol=1e-4)


def test_a_blur_is_that_of_diffusers():
    guiders()
    from diffusers.hooks.smoothed_energy_guidance_utils import _gaussian_blur_2d

    tokens = torch.randn(2, 64, 5, generator=torch.Generator().manual_seed(1))
    for sigma in (0.5, 1.0, 3.0):
        taps = math.ceil(6 * sigma) + 1 - math.ceil(6 * sigma) % 2
        want = _gaussian_blur_2d(tokens.clone(), taps, sigma, sigma_threshold_inf=0)
        torch.testing.assert_close(blur_tokens(tokens, 8, 8, sigma), want, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("eta,momentum,norm", [(0.0, -0.5, 15.0), (0.3, -0.75, 0.0), (1, 0.5, 2)])
def test_apg_is_that_of_diffusers(eta, momentum, norm):
    diffusers = guiders()
    from asyndm.guidance.apg import Apg
    from asyndm.guidance.base import Guess

    guider = diffusers.guiders.AdaptiveProjectedGuidance(
        4.0, momentum, norm, eta=eta, use_original_formulation=True
    )
    guider.momentum_buffer = diffusers.guiders.adaptive_projected_guidance.MomentumBuffer(momentum)
    ours = Apg(eta, momentum, norm)
    for step in range(3):
        generator = torch.Generator().manual_seed(step)
        cond, uncond = (torch.randn(2, 4, 8, 6, generator=generator) for _ in range(2))
        want = guider.forward(cond, uncond).pred
        # Their "original formulation" is D_c + w * update: ours at w + 1.
        made = ours.combine(Guess(cond, uncond, torch.ones(2, 1, 8, 6), 5.0))
        torch.testing.assert_close(made, want, atol=1e-5, rtol=1e-5)


# --- S-CFG's attention ---


@pytest.mark.parametrize("name", ["ldm_sd1", "diffusers_sdxl"])
def test_regions_are_the_spread_attention_of_whole_layers(name):
    """Softmax, powers and interpolation written out, from queries and keys that hooks recorded."""
    case = make(name)
    inputs, call = case.inputs(3), NetworkCall()
    call.rows = Rows.of([1, 0, 0], [0, 0, -1])
    seen: dict = {}
    handles = []
    reader = RegionReader(call)
    layers, sizes = family_of(case.unet)(case.unet, call).cross_layers()
    used = levels_read(case.size, dict(enumerate(sizes(case.size))))
    used = [level for level in used if level in {layer.level for layer in layers}]
    for layer in layers:
        block = next(b for b in layer.transformer.transformer_blocks if b.attn2 is layer.attention)
        if layer.level in used:
            for kind in ("attn1", "attn2"):
                for n in "qk":

                    def keep(module, args, out, key=(layer, kind, n)):
                        seen[key] = out

                    module = getattr(getattr(block, kind), f"to_{n}")
                    handles.append(module.register_forward_hook(keep))
    before = hooks(case.unet)
    with reader.watching(case.unet, layers, sizes):
        case(inputs, 500.0)
        regions = reader.take()
        assert not reader.take().words
    assert hooks(case.unet) == before
    for handle in handles:
        handle.remove()

    grid = max((sizes(case.size)[level] for level in used), key=math.prod)
    total = {0: 0, 1: 0, 2: 0}
    count = 0
    for layer in layers:
        if (layer, "attn1", "q") not in seen:
            continue
        count += 1

        def shares(kind, layer=layer):
            q, k = (seen[layer, kind, n] for n in "qk")
            q, k = (x.unflatten(-1, (layer.attention.heads, -1)).transpose(1, 2) for x in (q, k))
            return (q @ k.mT / math.sqrt(q.shape[-1])).softmax(-1).mean(1)

        own, cross = shares("attn1"), shares("attn2")
        spread = (own + 3 * own @ own) / 4 @ cross
        height, width = sizes(case.size)[layer.level]
        for row in range(3):
            maps = spread[row].T.reshape(-1, height, width)
            if row == 2:
                maps = torch.stack([maps[0], maps[1:].sum(0)])
            maps = F.interpolate(maps[None], grid, mode="bilinear", align_corners=False)
            maps = blur3(maps)[0]
            total[row] = total[row] + maps / (maps.mean((-2, -1), keepdim=True) + 1e-8)
    assert count > 1
    torch.testing.assert_close(regions.words[1], total[0] / count, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(regions.words[0], total[1] / count, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(regions.free[0], total[2] / count, atol=1e-4, rtol=1e-4)


def test_the_levels_of_a_quarter_and_an_eighth():
    sd1 = {0: (64, 64), 1: (32, 32), 2: (16, 16), 3: (8, 8)}
    assert levels_read((64, 64), sd1) == [2, 3]
    assert levels_read((128, 96), {1: (64, 48), 2: (32, 24)}) == [2]  # SDXL
    assert levels_read((63, 65), {1: (32, 33), 2: (16, 17), 3: (8, 9)}) == [2, 3]
    assert levels_read((16, 16), {0: (16, 16), 1: (8, 8)}) == [0, 1]  # the embedded model


def test_the_published_taps():
    spike = torch.zeros(1, 1, 5, 5)
    spike[..., 2, 2] = 1
    row = blur3(spike)[0, 0].sum(0)
    torch.testing.assert_close(row[1:4], torch.tensor([0.2119, 0.5761, 0.2119]), atol=1e-4, rtol=0)
