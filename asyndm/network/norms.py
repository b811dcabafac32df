"""Levelled norms: every group norm normalises a pixel by statistics of its own noise level.

A group norm pools mean and variance over all pixels, so beside a clear background a noisy object
is normalised with statistics that are not its own. A table, calibrated once on uniform noise, knows
the mean m(t) and the variance v(t) of every group at every timestep t. Where an image is at mixed
levels, with the bar for the mean over its pixels and mu, var for the statistics of the call,

    var' = var * v / bar(v + (m - bar m)^2)
    mu'  = mu + sqrt(var / bar(v + (m - bar m)^2)) * (m - bar m)      "scaled"
    mu'  = mu + (m - bar m)                                           "shifted"

The second form is exact where activations are as large as in the calibration, the first for any
common factor. The norm's own output is kept and corrected by an affine map of it,

    out' = out * s + bias * (1 - s) + weight * shift,
    s = sqrt((var + eps) / (var' + eps)),  shift = (mu - mu') / sqrt(var' + eps),

and in the scaled form both are the table's alone (eps at the calibration's size; the error is of
the order of eps / var), so nothing is read from the input and no copy of it is made. Where all
pixels share a timestep nothing is changed at all.

Norms outside the U-Net (a ControlNet's) are not touched, nor norms without a grid of pixels.
Transformers normalise each token by itself: there is nothing to level.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from asyndm.core.rows import UNCONDITIONAL, Rows
from asyndm.network.errors import RowsMismatch, UnsupportedNetwork
from asyndm.network.field import Places, TimestepField
from asyndm.network.norm_table import NormTable, norms_of
from asyndm.network.pile import no_autocast

FORMS = ("scaled", "shifted")
FORM = FORMS[0]
_MOST = 2**22  # numbers of the coefficients of all norms at once; more are made norm by norm


@dataclass(frozen=True)
class Reach:
    """Where norms are levelled.

    Attributes:
        disparity: only in images whose pixels' timesteps differ by so much or more.
        objects_only: only at pixels noisier than the clearest of their image.
    """

    disparity: float = 0.0
    objects_only: bool = False


REACH = Reach()

Find = Callable[[nn.Module, tuple, dict, Rows], NormTable]


class LevelledNorms:
    """The corrections of the norms of one network, during one run.

    Args:
        table: of this network; None = ``find`` is asked before the first call at mixed levels.
        find: (network, args, kwargs, rows of that call) -> table; mostly calibrates.
        form: of :data:`FORMS`.
        reach: where.

    Raises:
        ValueError: an unknown form, or neither a table nor a way to find one.
    """

    def __init__(
        self,
        table: NormTable | None = None,
        find: Find | None = None,
        form: str = FORM,
        reach: Reach | None = None,
    ) -> None:
        if form not in FORMS:
            raise ValueError(f"form: {form!r} is unknown; choose one of {', '.join(FORMS)}.")
        if table is None and find is None:
            raise ValueError("norms: give a table or a way to find one.")
        self.table, self.form, self.reach = table, form, REACH if reach is None else reach
        self._find = find
        self._layers: dict[nn.Module, slice] = {}  # of the table's columns
        self._field: TimestepField | None = None
        self._device: dict[str, Tensor] = {}
        self._rates: tuple[Tensor, Tensor] | None = None
        self._made: dict[tuple[int, int], _Level] = {}

    def watch(self, unet: nn.Module) -> list:
        """Hooks on the norms, as handles; the table must fit this network.

        Raises:
            UnsupportedNetwork: it has no group norms, or the table is another network's.
        """
        norms = norms_of(unet)
        if not norms:
            raise UnsupportedNetwork(
                "norms: this network has no group norms (a transformer normalises each token by "
                "itself), so there is nothing to level; set norms to host."
            )
        self._settle(unet)
        handles = []
        try:
            for module in norms.values():
                handles.append(module.register_forward_hook(self._after))
        except BaseException:
            for handle in handles:
                handle.remove()
            raise
        return handles

    def prepare(self, unet: nn.Module, args: tuple, kwargs: dict, rows: Rows) -> None:
        """Before a call at mixed levels: have a table. Network calls may be made here."""
        if self.table is None:
            self.table = self._find(unet, args, kwargs, rows)
            self._settle(unet)

    def begin(self, field: TimestepField, rows: Rows) -> None:
        """A network call starts."""
        if field.uniform:
            return
        device = field.timesteps.device
        if not self._device or self._device["mean"].device != device:
            self._device = self.table.on(device)
        self._field = field
        # Perturbed rows are conditional ones of which something was taken away.
        self._kinds = (rows.part != UNCONDITIONAL).long().to(device, non_blocking=True)

    def forget(self) -> None:
        """Drop everything of the last call."""
        self._field = None
        self._made.clear()

    def _settle(self, unet: nn.Module) -> None:
        self._layers, self._device = {}, {}
        if self.table is None:
            return
        if not self.table.fits(unet):
            raise UnsupportedNetwork(
                "norms: the table of norms is another network's; calibrate this one."
            )
        norms, start = norms_of(unet), 0
        for name, groups in self.table.layers:
            self._layers[norms[name]] = slice(start, start + groups)
            start += groups
        self._eps = torch.tensor(
            [norms[name].eps for name, groups in self.table.layers for _ in range(groups)]
        )

    def _after(self, module: nn.GroupNorm, args: tuple, output: Tensor) -> Tensor | None:
        if self._field is None or output.ndim != 4 or module not in self._layers:
            return None
        if output.shape[0] != self._field.rows:
            raise RowsMismatch(
                f"A norm sees {output.shape[0]} rows, the network {self._field.rows}: what cuts "
                "the image into pieces cannot go with levelled norms."
            )
        size = tuple(output.shape[-2:])
        with no_autocast(output.device):
            level = self._made.get(size)
            if level is None:
                level = self._made[size] = self._level(size)
            scale, shift = level.of(self._layers[module])
            if self.form == "shifted":
                scale, shift = _by_input(module, args[0], scale, shift)
            return _corrected(module, output, scale, shift, level.places)

    def _level(self, size: tuple[int, int]) -> _Level:
        """What all norms on one grid of pixels have in common."""
        places = self._field.places(*size)
        table = self._device
        low = torch.searchsorted(table["timesteps"], places.timesteps, right=True) - 1
        low = low.clamp(0, len(table["timesteps"]) - 2)
        start, end = table["timesteps"][low], table["timesteps"][low + 1]
        weight = ((places.timesteps - start) / (end - start)).clamp(0, 1)
        return _Level(self, places, low, weight, self._acts(places))

    def _acts(self, places: Places) -> Tensor | None:
        """[rows, width, 1] bool, where something is corrected; None = everywhere."""
        if self.reach == Reach():
            return None
        time, there = places.timesteps.float(), places.share > 0
        least = time.masked_fill(~there, torch.inf).amin(1, keepdim=True)
        most = time.masked_fill(~there, -torch.inf).amax(1, keepdim=True)
        acts = (most - least >= self.reach.disparity) & there
        if self.reach.objects_only:
            acts = acts & (time > least + 1e-3)
        return acts[..., None]


class _Level:
    """Coefficients [rows, width, groups] on one grid of pixels: of all norms at once, or one."""

    def __init__(
        self, norms: LevelledNorms, places: Places, low: Tensor, weight: Tensor, acts: Tensor | None
    ) -> None:
        self.norms, self.places = norms, places
        self._low, self._weight, self._acts = low, weight[..., None], acts
        columns = norms._device["mean"].shape[-1]
        self._all: tuple[Tensor, Tensor] | None = None
        if places.rows * low.shape[-1] * columns <= _MOST:
            self._all = self._coefficients(slice(None))

    def of(self, layer: slice) -> tuple[Tensor, Tensor]:
        """Of one norm: (s, shift); in the shifted form (var' / var, mu' - mu)."""
        if self._all is None:
            return self._coefficients(layer)
        return self._all[0][..., layer], self._all[1][..., layer]

    def _coefficients(self, layer: slice) -> tuple[Tensor, Tensor]:
        table, kinds = self.norms._device, self.norms._kinds[:, None]
        mean, var = (
            table[name][kinds, self._low, layer].lerp(
                table[name][kinds, self._low + 1, layer], self._weight
            )
            for name in ("mean", "var")
        )
        share = self.places.share[..., None]
        away = mean - (mean * share).sum(1, keepdim=True)
        pooled = ((var + away.square()) * share).sum(1, keepdim=True)
        if self.norms.form == "scaled":
            eps = self.norms._eps.to(var)[layer]
            scale = ((pooled + eps) / (var + eps)).sqrt()
            shift = -away * (var + eps).rsqrt()
        else:
            scale, shift = var / pooled.clamp(min=torch.finfo(var.dtype).tiny), away
        if self._acts is not None:
            scale = torch.where(self._acts, scale, 1.0)
            shift = torch.where(self._acts, shift, 0.0)
        return scale, shift


def _by_input(
    module: nn.GroupNorm, x: Tensor, scale: Tensor, shift: Tensor
) -> tuple[Tensor, Tensor]:
    """(s, shift) of the shifted form, whose size the variance of the input tells."""
    var = x.float().unflatten(1, (module.num_groups, -1)).flatten(2).var(2, unbiased=False)
    own = (var[:, None] * scale + module.eps).rsqrt()
    return own * (var[:, None] + module.eps).sqrt(), -shift * own


def _corrected(
    module: nn.GroupNorm, output: Tensor, scale: Tensor, shift: Tensor, places: Places
) -> Tensor:
    """The affine map of the norm's output; ``scale`` and ``shift`` [rows, width, groups]."""
    groups = module.num_groups
    size = output.shape[1] // groups
    rest, moved = (1 - scale)[..., None], shift[..., None]
    if module.affine:
        bias, weight = (p.to(scale).view(groups, size) for p in (module.bias, module.weight))
        offset = (rest * bias).addcmul_(moved, weight)
    else:
        offset = moved.expand(-1, -1, -1, size)
    offset = places.spread(offset.flatten(2).to(output.dtype)).unflatten(1, (groups, size))
    scale = places.spread(scale.to(output.dtype))
    return offset.addcmul_(output.unflatten(1, (groups, size)), scale[:, :, None]).flatten(1, 2)


class Recorder:
    """Averages the statistics of every norm over the rows of a kind, call by call.

    Args:
        unet: the network.
        parts: of the rows of each call, as in :class:`~asyndm.core.rows.Rows`.
    """

    def __init__(self, unet: nn.Module, parts: Sequence[int]) -> None:
        self.norms = norms_of(unet)
        conditional = torch.tensor([part != UNCONDITIONAL for part in parts])
        kinds = torch.stack([~conditional, conditional]).float()
        kinds[kinds.sum(1) == 0] = 1  # there are none of this kind: those of the other one
        self._weights = kinds / kinds.sum(1, keepdim=True)
        self._seen: dict[str, Tensor] = {}
        self._levels: list[Tensor] = []

    def watch(self) -> list:
        """Hooks on the norms, as handles."""
        return [
            module.register_forward_pre_hook(self._before(name))
            for name, module in self.norms.items()
        ]

    def keep(self) -> None:
        """The call is over: keep what was seen as one noise level.

        Raises:
            UnsupportedNetwork: a norm did not run, so that nothing is known of it.
        """
        missing = [name for name in self.norms if name not in self._seen]
        if missing:
            raise UnsupportedNetwork(
                f"norms: {len(missing)} of {len(self.norms)} norms did not run in the calibration "
                "(a step cache?); set norms to host."
            )
        self._levels.append(torch.cat([self._seen[name] for name in self.norms], -1))
        self._seen = {}

    def table(self, timesteps: Sequence[float]) -> NormTable:
        """What was kept, at these timesteps; the mean where they were gone through repeatedly."""
        layers = tuple((name, module.num_groups) for name, module in self.norms.items())
        order = sorted(range(len(timesteps)), key=lambda i: timesteps[i])
        count = len(timesteps)
        mean, var = torch.stack([torch.stack(self._levels[i::count]).mean(0) for i in order], 2)
        return NormTable.of(layers, torch.tensor([float(timesteps[i]) for i in order]), mean, var)

    def _before(self, name: str) -> Callable:
        def hook(module: nn.GroupNorm, args: tuple) -> None:
            x = args[0]
            with no_autocast(x.device):
                x = x.detach().float().unflatten(1, (module.num_groups, -1)).flatten(2)
                var, mean = torch.var_mean(x, 2, unbiased=False)
                weights = self._weights.to(x.device)
                # [mean or var, kind, groups]
                self._seen[name] = torch.stack([weights @ mean, weights @ var]).cpu()

        return hook
