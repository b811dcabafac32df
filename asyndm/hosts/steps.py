"""Steps whose network call AsynDM does not see: compiled networks and step caches.

A step cache (Spectrum, TeaCache, First Block Cache, DeepCache) leaves out the network, or most of
it, in some steps and answers from what it kept. Masks cannot be read there, and the noise levels
of the pixels are not told to anybody. One that is known by its name is refused before the first
call; any other is met in mid-run: then the last mask stays.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from asyndm.core.masks import DynamicMasks, NothingSeen
from asyndm.core.schedule import Steering
from asyndm.core.settings import Settings
from asyndm.core.window import steering_steps
from asyndm.network import UnsupportedNetwork

# What Forge Neo's torch.compile leaves on the model whose ``apply_model`` it wraps; the network is
# exchanged for the compiled one only while that runs, so the plain module tells nothing.
_COMPILED = ("_torch_compile_config", "_orig_apply_model")
# Parts of the names of step caches: of the functions they put in, of the options they set.
_CACHES = ("spectrum", "teacache", "fbcache", "fb_cache", "deepcache", "easycache", "lazycache")


def check_compiled(model: Any) -> None:
    """Refuse a backend's model whose network is compiled for the length of a call.

    Raises:
        UnsupportedNetwork: it is.
    """
    call = getattr(model, "apply_model", None)
    if any(hasattr(model, name) for name in _COMPILED) or hasattr(
        call, "_torchdynamo_orig_callable"
    ):
        raise UnsupportedNetwork(
            "AsynDM cannot look into a compiled network: switch torch.compile off."
        )


def check_caches(network: nn.Module, options: dict[str, Any] | None = None) -> None:
    """Refuse a network that a known step cache works on.

    Args:
        network: whose ``forward`` one may have exchanged.
        options: Forge's ``model_options``, with what extensions added.

    Raises:
        UnsupportedNetwork: one does.
    """
    options = options or {}
    functions = (options.get("model_function_wrapper"), vars(network).get("forward"))
    names = [*(_name(function) for function in functions if function is not None)]
    names += [str(key) for key in options.get("transformer_options", {})]
    for name in names:
        known = next((cache for cache in _CACHES if cache in name.lower()), None)
        if known is not None:
            raise UnsupportedNetwork(
                f"a step cache ({known}) leaves out network calls, so that masks cannot be read: "
                "switch it off."
            )


def nothing_steers(settings: Settings, calls: int, ready: bool) -> str:
    """Why no mask could move a clock in a run, in one line; "" where one can.

    Args:
        calls: of the network, in the host's list.
        ready: the mask is known before the first call.
    """
    least = 3 if settings.origin == "host" else 2
    if calls < least:
        return f"steps: {calls} cannot be asynchronous by a mask; at least {least} are needed."
    if steering_steps(settings, calls - 1, ready):
        return ""
    names = [name for name in ("first_step", "start", "end") if name in settings.changed()]
    return f"{', '.join(names)}: of {calls} steps none is left in which a mask steers."


def _name(function: Any) -> str:
    function = getattr(function, "__func__", function)
    named = function if hasattr(function, "__qualname__") else type(function)
    return f"{named.__module__}.{named.__qualname__}"


class PatientMasks(DynamicMasks):
    """Masks read from attention; in a step that shows none the last one stays.

    Attributes:
        unseen: steps without attention.
    """

    unseen = 0
    _last: Steering | None = None

    def reset(self) -> None:
        super().reset()
        self.unseen, self._last = 0, None

    def levels(self, i: int, denoised: Tensor | None) -> Steering:
        try:
            self._last = super().levels(i, denoised)
        except NothingSeen:
            self.unseen += 1
            if self._last is None:  # none yet: everything keeps the host's pace
                grid = self.capture.settle(tuple(denoised.shape[-2:]))
                shape, device = (len(denoised), *grid), denoised.device
                return Steering(torch.zeros(shape, dtype=torch.long, device=device))
        return self._last


class StepWatch:
    """Counts the steps in which the middle of the network did not run.

    Attributes:
        steps: that were taken.
        skipped: how many of them did without it.
    """

    def __init__(self) -> None:
        self.steps = self.skipped = self._calls = 0

    @contextmanager
    def watching(self, network: nn.Module) -> Iterator[None]:
        """Looks at this network inside the block."""
        middle = getattr(network, "middle_block", None)
        # reForge and Forge Classic call the layers of a block, never the block.
        seen = [network] if middle is None else [middle, *middle.children()]
        hooks = [module.register_forward_hook(self._saw) for module in seen]
        try:
            yield
        finally:
            for hook in hooks:
                hook.remove()

    def _saw(self, *call: Any) -> None:
        self._calls += 1

    @contextmanager
    def step(self) -> Iterator[None]:
        """Around one call of the CFG denoiser."""
        before = self._calls
        yield
        self.steps += 1
        self.skipped += self._calls == before

    def line(self, unseen: int | None) -> str:
        """For the user, "" where no step was left out.

        Args:
            unseen: steps without attention; None where none was wanted.
        """
        why = "a step cache such as Spectrum or TeaCache?"
        if unseen:
            kept = "the last mask was kept there" if unseen < self.steps else "no mask was found"
            return f"no attention was seen in {unseen} of {self.steps} steps ({why}); {kept}."
        if self.skipped:
            return (
                f"the network was left out in {self.skipped} of {self.steps} steps ({why}); the "
                "mask did nothing there."
            )
        return ""
