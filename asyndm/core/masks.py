"""From attention maps, or a given mask, to what every pixel follows in a step.

Source: arXiv 2510.04504, section 4.2: a pixel belongs to an object where the object word's mean
cross-attention is at least ``threshold`` times its mean over the image. Soft masks and the running
mean over steps are ours; both are off by default.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Protocol

import torch
from torch import Tensor

from asyndm.core.schedule import Steering

# A soft mask climbs from 0 to 1 while attention climbs by this many spatial means.
SOFT_WIDTH = 1.0


class NothingSeen(RuntimeError):
    """No attention was there to be read: the network, or its conditional rows, did not run."""


class Capture(Protocol):
    """What reads attention inside the network during one call."""

    def read(self) -> Tensor:
        """Maps [B, O, gh, gw] of the call that just ended; starts afresh for the next.

        NaN where an image's prompt has no such object: NaN is never at least anything.

        Raises:
            NothingSeen: that call had none.
        """


class MaskSource(Protocol):
    """Where the object mask of each step comes from.

    Attributes:
        curvatures: the run's levels: distinct object curvatures above 0, rising.
        ready: the mask is known before the first call, so the first step needs no stand-in.
    """

    curvatures: tuple[float, ...]
    ready: bool

    def reset(self) -> None:
        """Forget what earlier runs left."""

    def levels(self, i: int, denoised: Tensor | None) -> Steering:
        """The steering read in step i, after its network call (`denoised` is its D, [B, C, H, W]).

        A ready source is also asked before the first call, with i = -1 and no D.
        """


def binary_masks(maps: Tensor, threshold: float = 1.0) -> Tensor:
    """1[A >= threshold * spatial mean of A] for maps [..., gh, gw]; bool, same shape."""
    mean = maps.mean(dim=(-2, -1), keepdim=True)
    return maps >= (mean if threshold == 1 else threshold * mean)


def soft_masks(maps: Tensor, threshold: float = 1.0, width: float = SOFT_WIDTH) -> Tensor:
    """clamp(1/2 + (A / mean - threshold) / width, 0, 1) for maps [..., gh, gw].

    A straight ramp with its middle where the binary mask switches; width 0 would be that mask.
    """
    mean = maps.mean(dim=(-2, -1), keepdim=True)
    relative = maps / mean.clamp(min=torch.finfo(maps.dtype).tiny)
    return (0.5 + (relative - threshold) / width).clamp(0, 1)


def curvature_table(object_curvatures: Sequence[float]) -> tuple[float, ...]:
    """The distinct curvatures above 0, rising. (Curvature 0 is the background's straight line.)"""
    return tuple(sorted({float(k) for k in object_curvatures if k > 0}))


def curvature_levels(
    masks: Tensor, object_curvatures: Sequence[float]
) -> tuple[Tensor, tuple[float, ...]]:
    """Levels of binary masks; where objects overlap the larger curvature wins.

    Args:
        masks: [B, O, gh, gw] bool.
        object_curvatures: [O], one an object.

    Returns:
        (levels [B, gh, gw] long: 0 = background, j = the table's j-th entry; the table).

    Raises:
        ValueError: the numbers of masks and curvatures differ.
    """
    _check_objects(masks, object_curvatures)
    table = curvature_table(object_curvatures)
    if len(set(object_curvatures)) == len(table) == 1:  # the same for all, as by default
        return masks.any(dim=1).long(), table
    levels = torch.zeros(masks[:, 0].shape, dtype=torch.long, device=masks.device)
    for o, k in enumerate(object_curvatures):
        if k > 0:
            levels = levels.maximum(masks[:, o].long() * (table.index(float(k)) + 1))
    return levels, table


def soft_steering(masks: Tensor, object_curvatures: Sequence[float]) -> Steering:
    """Steering of soft masks [B, O, gh, gw] in [0, 1]: the object with the largest k * M wins."""
    _check_objects(masks, object_curvatures)
    table = curvature_table(object_curvatures)
    pull = torch.zeros_like(masks[:, 0])
    weight = torch.zeros_like(pull)
    levels = torch.zeros(pull.shape, dtype=torch.long, device=masks.device)
    for o, k in enumerate(object_curvatures):
        if k > 0:
            stronger = masks[:, o] * k > pull
            pull = torch.where(stronger, masks[:, o] * k, pull)
            weight = torch.where(stronger, masks[:, o], weight)
            levels = torch.where(stronger, table.index(float(k)) + 1, levels)
    return Steering(levels, weight)


def _check_objects(masks: Tensor, object_curvatures: Sequence[float]) -> None:
    if masks.ndim != 4 or masks.shape[1] != len(object_curvatures) or not len(object_curvatures):
        raise ValueError(
            f"masks of shape {tuple(masks.shape)} do not fit {len(object_curvatures)} objects."
        )


def steer(
    maps: Tensor,
    object_curvatures: Sequence[float],
    threshold: float,
    soft: bool,
    complete: bool = False,
) -> Steering:
    """Attention maps [B, O, gh, gw] to steering.

    Args:
        complete: no object is missing in any image, so none of the maps is NaN.
    """
    present = None if complete else ~maps.isnan().flatten(1).all(1)
    if soft:
        steering = soft_steering(soft_masks(maps, threshold), object_curvatures)
        return replace(steering, present=present)
    levels = curvature_levels(binary_masks(maps, threshold), object_curvatures)[0]
    return Steering(levels, present=present)


def as_mask(mask: Tensor) -> Tensor:
    """A given mask as bool where it holds only 0 and 1, else as float32.

    Looks at the values (once, before a run): a binary mask keeps the clocks countable.

    Raises:
        ValueError: values outside [0, 1] or not finite.
    """
    if mask.dtype == torch.bool:
        return mask
    mask = mask.detach().float()
    if not bool(((mask >= 0) & (mask <= 1)).all()):
        raise ValueError("mask: the values must lie within 0 and 1.")
    return mask > 0.5 if bool(((mask == 0) | (mask == 1)).all()) else mask


class DynamicMasks:
    """Masks read anew in every step from the model's own attention.

    Args:
        capture: reads the attention of a network call.
        object_curvatures: one an object, in the capture's order.
        threshold: times the spatial mean.
        smoothing: weight of the past in a running mean of the maps over the steps; 0 = off. An
            object that prompt editing takes out has no mask until it returns, and the mean is over
            the steps that have it.
        soft: masks between 0 and 1.
    """

    ready = False
    marked: Tensor | None = None  # [B] bool, any pixel was object so far; None: not in question

    def __init__(
        self,
        capture: Capture,
        object_curvatures: Sequence[float],
        *,
        threshold: float = 1.0,
        smoothing: float = 0.0,
        soft: bool = False,
    ) -> None:
        self.capture = capture
        self.object_curvatures = tuple(object_curvatures)
        self.curvatures = curvature_table(object_curvatures)
        self.threshold, self.smoothing, self.soft = threshold, smoothing, soft
        self._mean: Tensor | None = None

    def reset(self) -> None:
        self._mean = self.marked = None

    def levels(self, i: int, denoised: Tensor | None) -> Steering:
        maps = self.capture.read()
        complete = getattr(self.capture, "complete", False)
        if self.smoothing > 0:
            maps = self._smoothed(maps)
        steering = steer(maps, self.object_curvatures, self.threshold, self.soft, complete)
        if self.threshold > 1:  # else some pixel always is
            marked = (steering.levels > 0).flatten(1).any(1)
            self.marked = marked if self.marked is None else self.marked | marked
        return steering

    def _smoothed(self, maps: Tensor) -> Tensor:
        if self._mean is None:
            self._mean = maps
            return maps
        here, before = ~maps.isnan(), ~self._mean.isnan()
        mean = torch.where(before, maps.lerp(self._mean, self.smoothing), maps)
        self._mean = torch.where(here, mean, self._mean)
        return torch.where(here, self._mean, maps)


class GivenMasks:
    """One mask for the whole run: painted by a user, or fixed by a base pass.

    Args:
        mask: [H, W] or [B, H, W], bool or within [0, 1], any resolution; 1 = object.
        curvature: of the object.

    Raises:
        ValueError: another shape, or values outside [0, 1].
    """

    ready = True

    def __init__(self, mask: Tensor, curvature: float) -> None:
        mask = as_mask(torch.as_tensor(mask))
        if mask.ndim not in (2, 3):
            raise ValueError(f"mask: [H, W] or [B, H, W] is needed, not {tuple(mask.shape)}.")
        mask = mask if mask.ndim == 3 else mask[None]
        self.curvatures = curvature_table([curvature])
        level = len(self.curvatures)
        if mask.dtype == torch.bool:
            self._steering = Steering(mask.long() * level)
        else:
            self._steering = Steering((mask > 0).long() * level, mask)

    @classmethod
    def from_maps(
        cls,
        maps: Tensor,
        object_curvatures: Sequence[float],
        *,
        threshold: float = 1.0,
        soft: bool = False,
    ) -> GivenMasks:
        """The paper's fixed mask, from attention [B, O, gh, gw] averaged over a base pass."""
        self = cls.__new__(cls)
        self.curvatures = curvature_table(object_curvatures)
        self._steering = steer(maps, object_curvatures, threshold, soft)
        return self

    @property
    def marked(self) -> Tensor:
        """[B or 1] bool, whether any pixel is object."""
        return (self._steering.levels > 0).flatten(1).any(1)

    @classmethod
    def of_objects(cls, masks: Tensor, object_curvatures: Sequence[float]) -> GivenMasks:
        """One mask an object: [B or 1, O, H, W], bool or within [0, 1].

        Where they overlap the larger curvature wins.

        Raises:
            ValueError: the numbers of masks and curvatures differ, or values outside [0, 1].
        """
        masks = as_mask(masks)
        self = cls.__new__(cls)
        self.curvatures = curvature_table(object_curvatures)
        if masks.dtype == torch.bool:
            self._steering = Steering(curvature_levels(masks, object_curvatures)[0])
        else:
            self._steering = soft_steering(masks, object_curvatures)
        return self

    def reset(self) -> None:
        """Nothing to forget."""

    def levels(self, i: int, denoised: Tensor | None) -> Steering:
        return self._steering


class CallableMasks:
    """Masks from a function of the step and its denoised prediction, such as an oracle.

    Args:
        function: (i, denoised [B, C, H, W]) -> [B, O, gh, gw], or [B, gh, gw] for one object; bool
            for binary masks, floats within [0, 1] for soft ones.
        object_curvatures: one an object.
    """

    ready = False

    def __init__(
        self,
        function: Callable[[int, Tensor], Tensor],
        object_curvatures: Sequence[float],
    ) -> None:
        self.function = function
        self.object_curvatures = tuple(object_curvatures)
        self.curvatures = curvature_table(object_curvatures)

    def reset(self) -> None:
        """Nothing to forget."""

    def levels(self, i: int, denoised: Tensor | None) -> Steering:
        masks = self.function(i, denoised)
        masks = masks[:, None] if masks.ndim == 3 else masks
        if masks.dtype == torch.bool:
            return Steering(curvature_levels(masks, self.object_curvatures)[0])
        return soft_steering(masks.float(), self.object_curvatures)


class MapAverage:
    """Mean of attention maps over the steps of a synchronous base pass; constant memory.

    NaN, an object that a step's prompt does not have, counts for nothing; NaN where no step has it.
    """

    def __init__(self) -> None:
        self._sum: Tensor | None = None
        self._count: Tensor | None = None

    def add(self, maps: Tensor) -> None:
        """Maps [B, O, gh, gw] of one more step."""
        here = ~maps.isnan()
        maps = maps.nan_to_num()
        self._sum = maps if self._sum is None else self._sum + maps
        self._count = here.to(maps) if self._count is None else self._count + here

    def read(self) -> Tensor:
        """The mean, [B, O, gh, gw].

        Raises:
            ValueError: no step was added.
        """
        if self._sum is None:
            raise ValueError("The base pass left no attention maps to average.")
        return self._sum / self._count
