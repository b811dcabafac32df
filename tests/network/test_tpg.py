"""TPG beside an independent form of it, on real U-Nets.

No library has one (diffusers neither), so it is written out once more, without hooks: three rows in
one call, whose last third changes places ahead of every block on the way down. Where ``ASYNDM_TPG``
names the authors' ``pipeline_sdxl_tpg.py``, their own blocks are asked as well.
"""

from __future__ import annotations

import importlib.util
import os
from contextlib import contextmanager

import pytest
import torch
from conftest import make

from asyndm.core.parametrisation import EpsParametrisation
from asyndm.core.run import NetworkCall
from asyndm.core.settings import Settings
from asyndm.guidance import Guide
from asyndm.guidance.base import Guess
from asyndm.guidance.denoiser import MethodDenoiser
from asyndm.guidance.tpg import Tpg
from asyndm.network import perturb
from asyndm.network.perturb import Perturbation

FAMILIES = ["ldm_sd1", "ldm_sd2", "ldm_sdxl", "diffusers_sd1", "diffusers_sd2", "diffusers_sdxl"]
THEIRS = os.environ.get("ASYNDM_TPG")


def way_down(unet) -> list:
    """Its transformer blocks on the way down, in the order they are called."""
    return [
        module
        for name, module in unet.named_modules()
        if name.startswith(("input_blocks", "down_blocks"))
        and type(module).__name__ == "BasicTransformerBlock"
    ]


def order_of(number: int, count: int) -> list[int]:
    """Our own places for a block: nothing of the code under test."""
    generator = torch.Generator().manual_seed(100 + number)
    return torch.randperm(count, generator=generator).tolist()


@contextmanager
def shuffled_thirds(unet, order=order_of):
    """The last third of every row batch changes places ahead of every block on the way down."""
    blocks = way_down(unet)
    assert len(blocks) > 1
    for number, block in enumerate(blocks):

        def forward(x, *args, number=number, plain=block.forward, **more):
            thirds = list(x.chunk(3))
            places = order(number, x.shape[1])
            thirds[2] = torch.stack([thirds[2][:, place] for place in places], dim=1)
            return plain(torch.cat(thirds), *args, **more)

        block.forward = forward
    try:
        yield
    finally:
        for block in blocks:
            del block.forward


def three_rows(case):
    """(inputs of two images with the prompt, without it, and of all three predictions)."""
    cond, uncond = case.inputs(2), {**case.inputs(2, seed=1), "x": case.inputs(2)["x"]}
    return cond, uncond, {n: torch.cat([uncond[n], cond[n], cond[n]]) for n in cond}


def ours(case, cond):
    perturbation = Perturbation("shuffle")
    with perturbation.watching(case.unet), perturbation.on():
        return case(cond, 500.0)


@pytest.mark.parametrize("name", FAMILIES)
def test_tpg_is_shuffled_tokens_ahead_of_every_block_on_the_way_down(name, monkeypatch):
    case = make(name)
    cond, uncond, rows = three_rows(case)
    with shuffled_thirds(case.unet):
        free, guided, worse = case(rows, 500.0).chunk(3)
    monkeypatch.setattr(
        perturb, "places", lambda count, seed, number: torch.tensor(order_of(number, count))
    )
    made = ours(case, cond)
    plain = case(cond, 500.0)
    torch.testing.assert_close(made, worse, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(plain, guided, atol=1e-5, rtol=1e-5)
    assert (made - plain).abs().max() > 1e-2
    # As published: the third prediction beside both others, each in a share of its own.
    want = guided + (5.0 - 1) * (guided - free) + 3.0 * (guided - worse)
    g = Guess(plain, case(uncond, 500.0), torch.ones(1, 1, 1, 1), 5.0, perturbed=made)
    torch.testing.assert_close(Tpg(3.0).combine(g), want, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("step", [0, 3])
def test_a_guided_prediction_shuffles_by_its_step(step):
    """Through the guide and the denoiser of the engine: the places are the step's own."""
    case = make("diffusers_sd1")
    cond, uncond, rows = three_rows(case)
    betas = torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64) ** 2
    parametrisation = EpsParametrisation((1 - betas).cumprod(0))
    sigma = float(parametrisation.sigmas[500])
    call = NetworkCall()
    settings = Settings(enabled=True, guidance="tpg", perturbed_scale=2.0)
    guide = Guide(settings, parametrisation, call, 2, 5)
    guide.begin([sigma] * 6)
    guide.step = step - 1
    x = cond["x"] * (1 + sigma**2) ** 0.5
    denoiser = MethodDenoiser(case.unet, parametrisation, call, guide)
    with torch.no_grad(), guide.watching(case.unet):
        made = denoiser(
            x, torch.full((2,), sigma), cond=cond["context"], uncond=uncond["context"],
            cond_scale=5.0,
        )  # fmt: skip
    with shuffled_thirds(case.unet, lambda n, count: perturb.places(count, step, n).tolist()):
        free, guided, worse = case(rows, 500.0).chunk(3)
    eps = guided + 4 * (guided - free) + 2 * (guided - worse)
    torch.testing.assert_close(made, x - sigma * eps, atol=1e-3, rtol=1e-4)
    assert [one.rows for one in guide.measured()] == [3, 3]


@pytest.mark.skipif(not THEIRS, reason="ASYNDM_TPG: the authors' pipeline_sdxl_tpg.py")
@pytest.mark.parametrize("name", [n for n in FAMILIES if n.startswith("diffusers")])
def test_tpg_is_that_of_the_authors_blocks(name, monkeypatch):
    spec = importlib.util.spec_from_file_location("pipeline_sdxl_tpg", THEIRS)
    theirs = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(theirs)
    case = make(name)
    cond, _, rows = three_rows(case)
    blocks = way_down(case.unet)
    before = [type(block) for block in blocks]
    for block in blocks:
        block.__class__ = theirs.make_tpg_block(type(block), do_cfg=True)
    try:
        torch.manual_seed(5)
        worse = case(rows, 500.0).chunk(3)[2]
    finally:
        for block, own in zip(blocks, before):
            block.__class__ = own
    torch.manual_seed(5)
    monkeypatch.setattr(perturb, "places", lambda count, seed, number: torch.randperm(count))
    made = ours(case, cond)
    assert (made - case(cond, 500.0)).abs().max() > 1e-2
    print(name, float((made - worse).abs().max()))
    torch.testing.assert_close(made, worse, atol=1e-5, rtol=1e-5)
