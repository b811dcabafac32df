"""Each removal of a hook or a patch is needed: left out, it is missed by the check."""

from __future__ import annotations

from contextlib import contextmanager

import pytest
import torch
from conftest import REAL
from jobs import Traces, make, note, ticked
from removals import MODULES, OF_METHODS, removals

from asyndm.core.run import Director, NetworkCall
from asyndm.network.hooks import UNetHooks

JOBS = ("ended", "patched", "failed", "no hook", "no patch")


class Left(AssertionError):
    """Something was left behind."""


@contextmanager
def made_of(*kinds: type):
    """What is made of some classes inside the block."""
    made, plain = [], {kind: kind.__init__ for kind in kinds}

    def remember(kind):
        def init(self, *args, **kwargs):
            made.append(self)
            plain[kind](self, *args, **kwargs)

        return init

    for kind in kinds:
        kind.__init__ = remember(kind)
    try:
        yield made
    finally:
        for kind in kinds:
            kind.__init__ = plain[kind]


@contextmanager
def failing_in_mid_run(host):
    calls = []

    def fail(module, args):
        calls.append(1)
        if len(calls) == 3:
            raise RuntimeError("injected")

    handle = host.network().register_forward_pre_hook(fail)
    try:
        yield
    finally:
        handle.remove()


@contextmanager
def no_hook_from(number: int):
    """Registering hooks fails from one on, as in a network that is changed meanwhile."""
    register, count = torch.nn.Module.register_forward_hook, []

    def stop(self, *args, **kwargs):
        count.append(1)
        if len(count) >= number:
            raise RuntimeError("injected")
        return register(self, *args, **kwargs)

    torch.nn.Module.register_forward_hook = stop
    try:
        yield
    finally:
        torch.nn.Module.register_forward_hook = register


@contextmanager
def patched_by_another(host, run: type):
    """Another extension's function stands where AsynDM puts its own, and stands there again."""
    name = "forward" if host.backend == "A1111" else "calculate_input"
    plain, seen = run.sample, []

    def sample(self):
        wrapper = self.wrapper()
        theirs = getattr(wrapper, name)
        vars(wrapper)[name] = theirs
        seen.append((wrapper, theirs))
        return plain(self)

    run.sample = sample
    try:
        yield
        assert seen
        if any(vars(wrapper).get(name) is not theirs for wrapper, theirs in seen):
            raise Left("another extension's patch undone")
    finally:
        run.sample = plain
        for wrapper, _ in seen:
            vars(wrapper).pop(name, None)


def hooked_in_a_job(host) -> int:
    """How many forward hooks one attachment registers."""
    register, count = torch.nn.Module.register_forward_hook, []

    def counted(self, *args, **kwargs):
        count.append(1)
        return register(self, *args, **kwargs)

    torch.nn.Module.register_forward_hook = counted
    try:
        make(host, "txt2img", steps=3, **ticked(curvature=0.8))
    finally:
        torch.nn.Module.register_forward_hook = register
    return len(count)


def run(host, job: str, hooks: int) -> None:
    """One ticked job.

    Raises:
        Left: a hook, a patch or the state of a run outlived it.
    """
    from asyndm.hosts.hosted import HostRun  # only a host has it

    traces = Traces(host)
    with made_of(Director, HostRun, UNetHooks) as made:
        if job == "ended":
            make(host, "txt2img", steps=4, **ticked(curvature=0.8))
        elif job == "patched":
            with patched_by_another(host, HostRun):
                make(host, "txt2img", steps=4, **ticked(curvature=0.8))
        elif job == "failed":
            with failing_in_mid_run(host), pytest.raises(RuntimeError, match="injected"):
                make(host, "txt2img", steps=4, **ticked(curvature=0.8))
        else:
            # What is tried when the job is planned needs as many hooks again; then the run's.
            with no_hook_from(hooks - 1 if job == "no hook" else hooks // 2 + 1):
                make(host, "txt2img", steps=4, **ticked(curvature=0.8))
    if traces.now() != traces.before:
        raise Left("hooks or patches")
    for each in made:
        if isinstance(each, Director) and (each.clock or each.call != NetworkCall()):
            raise Left("the clocks of a run")
        if isinstance(each, HostRun) and hasattr(each.denoiser, "asyndm_run"):
            raise Left("a run on the denoiser")
        if isinstance(each, HostRun) and each._to is not None:
            raise Left("a network that a run holds")
        if isinstance(each, UNetHooks) and (each.field is not None or each._time is not None):
            raise Left("the timesteps of a forward")


@contextmanager
def cleaned(host):
    """What a job left is gone for the next one, by the test's own means."""
    hooks = {
        module: (dict(module._forward_hooks), dict(module._forward_pre_hooks), dict(vars(module)))
        for module in host.root().modules()
    }
    try:
        yield
    finally:
        for module, (after, before, own) in hooks.items():
            for name in set(vars(module)) - set(own):
                del vars(module)[name]
            vars(module).update(own)
            for table, kept in (
                (module._forward_hooks, after),
                (module._forward_pre_hooks, before),
            ):
                for key in set(table) - set(kept):
                    del table[key]


def test_there_are_removals_in_every_module_that_touches_a_network() -> None:
    assert {each.module for each in removals()} >= set(MODULES) - {"asyndm.hosts.a1111"}


@pytest.mark.parametrize("job", JOBS)
def test_nothing_is_left(host, job) -> None:
    run(host, job, hooked_in_a_job(host))


@pytest.mark.parametrize("removal", removals(), ids=str)
def test_a_removal_left_out_is_seen(host, removal) -> None:
    if removal.module == "asyndm.hosts.forge" and host.backend == "A1111":
        pytest.skip("this host is entered in another way")
    hooks = hooked_in_a_job(host)
    for job in JOBS:
        with cleaned(host), removal.left_out():
            try:
                run(host, job, hooks)
            except (Left, AttributeError):
                return
    pytest.fail(f"{removal} can be left out and no check sees it")


HOOKS = [each for each in removals(OF_METHODS) if ".remove()" in each.statement]


@pytest.mark.parametrize("removal", HOOKS, ids=str)
def test_a_methods_hook_that_stays_is_seen(host, removal) -> None:
    if not REAL and host.name == "reForge":
        pytest.skip("as in Forge's stand-in")
    traces, settings = Traces(host), {"curvature": 0.8, "guidance": OF_METHODS[removal.module]}
    assert not note(make(host, "txt2img", steps=3, **ticked(**settings)))
    traces.check()
    with cleaned(host), removal.left_out():
        make(host, "txt2img", steps=3, **ticked(**settings))
        assert traces.now() != traces.before
    assert len({each.module for each in HOOKS}) == len(OF_METHODS)
