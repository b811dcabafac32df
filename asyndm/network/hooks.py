"""What all families share: hooks that live exactly as long as a `with` block.

Only forward hooks and forward pre-hooks are used: nothing of the network is replaced, so nothing
can clash with attention kernels, LoRA, hypernetworks or another extension's patches.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from asyndm.core.grids import Size
from asyndm.network.capture import AttentionCapture
from asyndm.network.cross import CrossLayer
from asyndm.network.errors import RowsMismatch, UnsupportedNetwork
from asyndm.network.field import TimestepField
from asyndm.network.modules import every_module

if TYPE_CHECKING:
    from asyndm.core.run import NetworkCall
    from asyndm.network.norms import LevelledNorms


class UNetHooks(ABC):
    """Per-pixel timesteps and attention capture in one U-Net.

    Args:
        unet: the network.
        call: the channel to the sampling run; read anew in every forward.
        capture: where cross-attention is recorded, or None.
        norms: what levels the group norms, or None: they are the host's.

    Raises:
        UnsupportedNetwork: hooks cannot do their work in this network.
    """

    patch = 1  # side of the squares of latents that the network makes one token of
    known_by: tuple[str, ...]  # modules that a network of this family has
    input_names: tuple[str, ...]  # what the latents are called where they are given by name
    frames = False  # one frame of a video, [B, C, 1, H, W], is a picture, too

    def __init__(
        self,
        unet: nn.Module,
        call: NetworkCall,
        capture: AttentionCapture | None = None,
        norms: LevelledNorms | None = None,
    ) -> None:
        self.modules = check_hookable(unet)  # all of them
        self.unet, self.call, self.capture, self.norms = unet, call, capture, norms
        self.field: TimestepField | None = None  # None = this forward is synchronous
        self._time: Tensor | None = None
        self._handles: list = []
        self._reading: list = []  # those of the hooks that see queries and keys, of one level
        self._level: int | None = None
        if capture is not None:
            capture.connect(*self.cross_layers())

    @classmethod
    def matches(cls, network: nn.Module) -> bool:
        """Whether a network is of this family, by the names of its modules."""
        return all(isinstance(getattr(network, name, None), nn.Module) for name in cls.known_by)

    @abstractmethod
    def cross_layers(self) -> tuple[list[CrossLayer], Callable[[tuple[int, int]], list]]:
        """The cross-attention layers, and the sizes of all levels as a function of the latents'."""

    @abstractmethod
    def watch_time(self) -> None:
        """Register the hooks that see the embeddings and put the field into the blocks."""

    def watch_attention(self) -> list:
        """Register the hooks that see queries and keys of a forward; returns their handles."""
        return self.capture.watch()

    def seen(self, args: tuple, kwargs: dict) -> tuple[int, Size, torch.device]:
        """(rows, (H, W) of the latents, device) of a forward.

        Raises:
            UnsupportedNetwork: the network's input is not what the family takes.
        """
        latents = args[0] if args else next(kwargs[n] for n in self.input_names if n in kwargs)
        if latents.ndim != 4 and not (self.frames and latents.ndim == 5 and latents.shape[2] == 1):
            raise UnsupportedNetwork(
                f"The network's input has {latents.ndim} dimensions; AsynDM needs [B, C, H, W]."
            )
        return latents.shape[0], tuple(latents.shape[-2:]), latents.device

    def start(self, size: Size) -> None:
        """A forward with latents of ``size`` begins. By default nothing is left to do."""

    @contextmanager
    def attached(self) -> Iterator[None]:
        """Hooks are in place inside the block, and gone after any way out of it."""
        for hook in self.unet._forward_pre_hooks.values():
            if isinstance(getattr(hook, "__self__", None), UNetHooks):
                raise RuntimeError(  # noqa: TRY004 - a state, not a type
                    "AsynDM is already attached to this network; leave that first."
                )
        try:
            self._handles.append(self.unet.register_forward_pre_hook(self._begin, with_kwargs=True))
            if self.norms is not None:  # ahead of what time does to a norm's output
                self._handles.extend(self.norms.watch(self.unet))
            self.watch_time()
            yield
        finally:
            self._remove(self._handles)
            self._remove(self._reading)
            self._forget_all()

    @staticmethod
    def _remove(handles: list) -> None:
        while handles:
            handles.pop().remove()

    def after(self, module: nn.Module, hook: Callable) -> None:
        """Call ``hook(module, args, output)`` behind the module for as long as this is attached."""
        self._handles.append(module.register_forward_hook(hook))

    def before(self, module: nn.Module, hook: Callable) -> None:
        """Call ``hook(module, args)`` ahead of the module for as long as this is attached."""
        self._handles.append(module.register_forward_pre_hook(hook))

    def check_inputs(self, kwargs: dict) -> None:
        """Refuse named inputs the hooks cannot account for. By default there are none."""

    def _begin(self, module: nn.Module, args: tuple, kwargs: dict) -> None:
        self._forget()
        call = self.call
        if call.pixel_time is None and self.capture is None:
            return
        count, size, device = self.seen(args, kwargs)
        rows = call.rows
        if rows is None or len(rows.images) != count:
            known = "none" if rows is None else f"one of {len(rows.images)} rows"
            raise RowsMismatch(
                f"The network was given {count} rows, but the row map set for this call "
                f"is {known}: NetworkCall.rows must be set before every network call."
            )
        self.check_inputs(kwargs)
        if self.norms is not None and call.pixel_time is not None:
            self.norms.prepare(module, args, kwargs, rows)
        if self.capture is not None and call.reading:
            self.capture.begin(size, rows)
            if not self._reading or self._level != self.capture.level:
                self._remove(self._reading)
                self._level = self.capture.level
                self._reading += self.watch_attention()
        if call.pixel_time is not None:
            self.field = self._field(call, device)
            if self.norms is not None:
                self.norms.begin(self.field, rows)
        self.start(size)

    def _field(self, call: NetworkCall, device: torch.device) -> TimestepField:
        levels, batch = call.pixel_time.sigma_table.shape[0], call.pixel_time.index.shape[0]
        table = call.timestep_table
        if table is None or table.shape[0] != levels:
            known = "no timestep" if table is None else f"{table.shape[0]} timesteps"
            raise RowsMismatch(
                f"{known} for {levels} noise levels: set NetworkCall.timestep_table."
            )
        images = call.rows.images
        if max(images) >= batch:
            raise RowsMismatch(
                f"A network row belongs to image {max(images)}, but the noise levels are those of "
                f"{batch} image(s)."
            )
        return TimestepField(call.pixel_time, table, call.rows.image, images, device)

    def _forget_all(self) -> None:
        """Drop everything, also what is kept from one forward to the next."""
        self._forget()

    def _forget(self) -> None:
        """Drop everything of the last forward, also of one that an error cut short."""
        self.field = self._time = None
        if self.norms is not None:
            self.norms.forget()
        if self.capture is not None:
            self.capture.forget_pending()


def check_hookable(unet: nn.Module) -> list[nn.Module]:
    """Make sure that hooks inside the network will run; returns all its modules.

    Raises:
        UnsupportedNetwork: it is compiled, scripted or nunchaku's, wholly or in part.
    """
    if not isinstance(unet, nn.Module):
        raise UnsupportedNetwork(
            f"AsynDM needs a torch network; this one is a {type(unet).__name__}."
        )
    modules = every_module(unet)
    if _any_compiled(modules):
        raise UnsupportedNetwork(
            "AsynDM cannot look into a compiled network: switch torch.compile off."
        )
    for kind in {type(module) for module in modules}:
        if issubclass(kind, torch.jit.ScriptModule):
            raise UnsupportedNetwork(
                "AsynDM cannot look into a scripted network: use the plain PyTorch one."
            )
        if _is_nunchaku(kind):  # its kernels do without the modules that hooks are on
            raise UnsupportedNetwork(
                "AsynDM cannot look into a nunchaku (SVDQuant) network: load plain, GGUF, NF4 or "
                "fp8 weights."
            )
    return modules


def _any_compiled(modules: list[nn.Module]) -> bool:
    """By ``torch.compile(module)``, ``module.compile()`` or a compiled ``forward``."""
    for module in modules:
        own = module.__dict__
        if "_orig_mod" in module._modules:
            return True
        if "_compiled_call_impl" in own and own["_compiled_call_impl"] is not None:
            return True
        if "forward" in own and hasattr(own["forward"], "_torchdynamo_orig_callable"):
            return True
    return False


def _is_nunchaku(kind: type) -> bool:
    """Whether a class is of the library or, in Forge Neo, made of its classes."""
    names = f"{kind.__module__}.{kind.__name__}"
    return "nunchaku" in names.lower() or kind.__name__.startswith("SVDQ")
