"""Hooks live exactly as long as the block, whatever ends it."""

from __future__ import annotations

import pytest
import torch
from networks import Case
from test_timesteps import pixel_time, timesteps

from asyndm.core.rows import Rows
from asyndm.core.run import NetworkCall
from asyndm.network import AttentionCapture, attach
from asyndm.network.modules import every_module, holding, outermost

HOOKS = (
    "_forward_hooks", "_forward_pre_hooks", "_forward_hooks_with_kwargs",
    "_forward_pre_hooks_with_kwargs", "_forward_hooks_always_called", "_backward_hooks",
    "_backward_pre_hooks",
)  # fmt: skip


class Stop(BaseException):
    """As a host's InterruptedException: no `except Exception` sees it."""


def traces(case: Case) -> list:
    """All a hook or patch could leave: hook tables, instance dictionaries, forwards."""
    return [
        (
            name,
            {hook: len(getattr(module, hook)) for hook in HOOKS},
            sorted(vars(module)),
            {key: id(value) for key, value in vars(module).items() if not isinstance(value, dict)},
            module.forward,
        )
        for name, module in case.unet.named_modules()
    ]


def attached(case: Case):
    call = NetworkCall(pixel_time(case, 1), timesteps(5), Rows.cond_then_uncond(1))
    return attach(case.unet, call, AttentionCapture([[[[1], [2]]]]))


def hooks(case: Case) -> int:
    return sum(len(getattr(m, hook)) for m in case.unet.modules() for hook in HOOKS)


def test_a_normal_end(small: Case) -> None:
    before, plain = traces(small), small(small.inputs(2), 300.0)
    context = attached(small)
    assert traces(small) == before  # nothing happens ahead of the block
    with context:
        assert hooks(small) > 0
        small(small.inputs(2), 5.0)
    assert hooks(small) == 0
    assert traces(small) == before
    assert torch.equal(small(small.inputs(2), 300.0), plain)


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, Stop])
@pytest.mark.parametrize("during", ["body", "forward"])
def test_any_error(small: Case, error: type[BaseException], during: str) -> None:
    before = traces(small)
    with pytest.raises(error), attached(small):
        if during == "body":
            raise error
        with failing(small, error, 17):
            small(small.inputs(2), 5.0)
    assert traces(small) == before


@pytest.mark.parametrize("number", [0, 1, 5, 40, 90, 130])
def test_an_interrupt_at_any_call(small: Case, number: int) -> None:
    """And the next forward inside the same block is whole again: a host may catch and retry."""
    before = traces(small)
    with attached(small):
        whole = small(small.inputs(2), 5.0)
        with pytest.raises(Stop), failing(small, Stop, number):
            small(small.inputs(2), 5.0)
        assert torch.equal(small(small.inputs(2), 5.0), whole)
    assert traces(small) == before


class failing:
    """Raise in the ``number``-th module that is called; leaves no trace of its own."""

    def __init__(self, case: Case, error: type[BaseException], number: int) -> None:
        self.error, self.left = error, number

    def __enter__(self) -> None:
        self.handle = torch.nn.modules.module.register_module_forward_pre_hook(self)

    def __call__(self, module, args) -> None:
        self.left -= 1
        if self.left < 0:
            raise self.error

    def __exit__(self, *_) -> None:
        self.handle.remove()


def test_registering_that_fails_half_way(small: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    before = traces(small)
    register, count, stop_at = torch.nn.Module.register_forward_hook, [0], 0

    def stop(self, *args, **kwargs):
        count[0] += 1
        if count[0] == stop_at:
            raise Stop
        return register(self, *args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(torch.nn.Module, "register_forward_hook", stop)
        with attached(small):
            total = count[0]
        for stop_at in (1, 2, total // 2, total):  # noqa: B007 (read in stop)
            count[0] = 0
            with pytest.raises(Stop), attached(small):
                pytest.fail("the block must not begin")
    assert traces(small) == before


def test_attached_twice_is_refused_and_the_first_stays(small: Case) -> None:
    before = traces(small)
    with attached(small):
        first = small(small.inputs(2), 5.0)
        with pytest.raises(RuntimeError, match="already attached"), attached(small):
            pytest.fail("the block must not begin")
        assert torch.equal(small(small.inputs(2), 5.0), first)
    assert traces(small) == before


def test_foreign_hooks_stay(small: Case) -> None:
    seen = []
    module = next(m for m in small.unet.modules() if hasattr(m, "to_q"))
    handle = module.to_q.register_forward_hook(lambda *_: seen.append(1))
    with attached(small):
        small(small.inputs(2), 5.0)
    small(small.inputs(2), 5.0)
    handle.remove()
    assert len(seen) == 2


def test_every_module_is_torchs_list_in_its_order(small: Case) -> None:
    small.unet.again = next(small.unet.children())  # one part under two names is there once
    try:
        assert every_module(small.unet) == list(small.unet.modules())
    finally:
        del small.unet.again
    small.unet.absent = None
    small.unet.register_module("nothing", None)
    try:
        assert every_module(small.unet) == list(small.unet.modules())
        assert holding("absent", small.unet.modules()) == [small.unet]
        assert holding("nothing", small.unet.modules()) == [small.unet]
        assert holding("training_of_nobody", small.unet.modules()) == []
    finally:
        del small.unet.absent, small.unet.nothing


def test_outermost_holders_are_all_holders_but_those_inside_another(small: Case) -> None:
    for name in ("transformer_blocks", "attn2", "0", "nobody"):
        holders = [module for module in every_module(small.unet) if name in module._modules]
        inside = {part for holder in holders for part in list(holder.modules())[1:]}
        expected = [holder for holder in holders if holder not in inside]
        assert outermost(name, small.unet) == expected


def test_only_the_layers_that_are_read_are_watched(small: Case) -> None:
    call = NetworkCall(None, None, Rows.cond_then_uncond(1))
    capture = AttentionCapture([[[[1], [2]]]])

    def watched() -> set[int]:
        return {
            layer.level
            for layer in capture._layers
            if layer.attention.to_q._forward_hooks or layer.attention.to_k._forward_hooks
        }

    with attach(small.unet, call, capture):
        assert watched() == set()  # nobody knows the latents' size yet
        small(small.inputs(2), 300.0)
        assert watched() == {capture.level}
        once = hooks(small)
        small(small.inputs(2), 200.0)
        assert hooks(small) == once
        other = next(layer.level for layer in capture._layers if layer.level != capture.level)
        sizes = capture._sizes(small.size)
        capture._wanted = sizes[other]  # as a larger picture would
        small(small.inputs(2), 100.0)
        assert watched() == {other}
    assert hooks(small) == 0
