"""The statistics of a network's group norms by timestep: a table, and the folder it is kept in."""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from asyndm.network.errors import UnsupportedNetwork

MOST_FILES = 20
_KINDS = 2  # unconditional rows, conditional rows
_SUFFIX = ".safetensors"


def norms_of(unet: nn.Module) -> dict[str, nn.GroupNorm]:
    """The group norms of a network by name."""
    return {name: m for name, m in unet.named_modules() if isinstance(m, nn.GroupNorm)}


@dataclass(frozen=True)
class NormTable:
    """What the inputs of group norms are at uniform noise; all columns of all norms side by side.

    Attributes:
        layers: (name, groups) of each norm, in the order of the columns.
        timesteps: [T], rising.
        mean: [2, T, columns] half precision: of the unconditional rows, of the conditional ones.
        deviation: the same, the standard deviation within a row.
    """

    layers: tuple[tuple[str, int], ...]
    timesteps: Tensor
    mean: Tensor
    deviation: Tensor

    @classmethod
    def of(
        cls, layers: Sequence[tuple[str, int]], timesteps: Tensor, mean: Tensor, var: Tensor
    ) -> NormTable:
        """From means and variances in full precision; kept as they will be read from a file.

        Raises:
            UnsupportedNetwork: something that half precision cannot hold.
            ValueError: a table of another shape.
        """
        columns = sum(groups for _, groups in layers)
        shape = (_KINDS, len(timesteps), columns)
        if tuple(mean.shape) != shape or tuple(var.shape) != shape or len(timesteps) < 2:
            raise ValueError(f"norms: a table of {tuple(mean.shape)} instead of {shape}.")
        mean, deviation = mean.half(), var.clamp(min=0).sqrt().half()
        if not bool(mean.isfinite().all() and deviation.isfinite().all()):
            raise UnsupportedNetwork(
                "norms: the network's activations are too large for a table; set norms to host."
            )
        return cls(tuple(layers), timesteps.float().cpu(), mean.cpu(), deviation.cpu())

    def fits(self, unet: nn.Module) -> bool:
        """Whether it is of a network with these norms."""
        there = {name: module.num_groups for name, module in norms_of(unet).items()}
        return there == dict(self.layers)

    def on(self, device: torch.device) -> dict[str, Tensor]:
        """timesteps [T], mean and var [2, T, columns] in float32 on a device.

        Means less their own mean over the timesteps: only differences of them count, and sums of
        small numbers are more exact.
        """
        mean = self.mean.float()
        tensors = {
            "timesteps": self.timesteps,
            "mean": mean - mean.mean(1, keepdim=True),
            "var": self.deviation.float().square(),
        }
        return {name: tensor.to(device) for name, tensor in tensors.items()}

    @property
    def name(self) -> str:
        """Eight letters that tell this table from others."""
        parts = (self.timesteps, self.mean, self.deviation)
        digest = hashlib.sha256(json.dumps(self.layers).encode())
        for part in parts:
            digest.update(part.contiguous().numpy().tobytes())
        return digest.hexdigest()[:8]

    def tensors(self) -> dict[str, Tensor]:
        return {
            "timesteps": self.timesteps.contiguous(),
            "mean": self.mean.contiguous(),
            "deviation": self.deviation.contiguous(),
        }


class NormTables:
    """Tables by key: in memory, and in a folder of at most :data:`MOST_FILES` files.

    Args:
        folder: None = in memory alone.
    """

    def __init__(self, folder: Path | None = None) -> None:
        self.folder = folder
        self._held: dict[str, NormTable] = {}

    @staticmethod
    def key(parts: Sequence[str]) -> str:
        """A file's name from what a table depends on."""
        return hashlib.sha256(json.dumps([*parts]).encode()).hexdigest()[:24]

    def get(self, parts: Sequence[str], unet: nn.Module) -> NormTable | None:
        """The table of a network under these circumstances; None where there is none of use."""
        key = self.key(parts)
        table = self._held.get(key) or self._read(key, parts)
        if table is None or not table.fits(unet):
            return None
        self._hold(key, table)
        return table

    def put(self, parts: Sequence[str], table: NormTable) -> str:
        """Keep a table. Returns why it is in memory alone; "" where it is in the folder."""
        key = self.key(parts)
        self._hold(key, table)
        if self.folder is None:
            return ""
        from safetensors.torch import save

        text = {"parts": json.dumps([*parts]), "layers": json.dumps(table.layers)}
        data = save(table.tensors(), text)
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            # Beside its place, so that a reader sees the old file or the new one.
            handle, draft = tempfile.mkstemp(prefix=".norms-", suffix=".tmp", dir=self.folder)
            try:
                with os.fdopen(handle, "wb") as file:
                    file.write(data)
                os.replace(draft, self.folder / f"{key}{_SUFFIX}")
            except BaseException:
                Path(draft).unlink(missing_ok=True)
                raise
            self._thin_out()
        except OSError as error:
            return f"{self.folder} cannot be written ({error.strerror or error})"
        return ""

    def _hold(self, key: str, table: NormTable) -> None:
        self._held.pop(key, None)
        self._held[key] = table
        for old in list(self._held)[:-MOST_FILES]:
            del self._held[old]

    def _read(self, key: str, parts: Sequence[str]) -> NormTable | None:
        """A file that cannot be read, or is another's, is none: it is made anew."""
        if self.folder is None:
            return None
        from safetensors import SafetensorError, safe_open

        path = self.folder / f"{key}{_SUFFIX}"
        try:
            with safe_open(path, "pt") as file:
                text = file.metadata() or {}
                if json.loads(text.get("parts", "null")) != [*parts]:
                    return None
                layers = tuple((str(n), int(g)) for n, g in json.loads(text["layers"]))
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            var = tensors["deviation"].float().square()
            table = NormTable.of(layers, tensors["timesteps"], tensors["mean"].float(), var)
            os.utime(path)  # the files used last are kept
        except (OSError, SafetensorError, ValueError, KeyError, TypeError, UnsupportedNetwork):
            return None
        return table

    def _thin_out(self) -> None:
        """The oldest go."""
        files = [p for p in self.folder.glob(f"*{_SUFFIX}") if p.is_file()]
        files.sort(key=lambda path: path.stat().st_mtime, reverse=True)
        for path in files[MOST_FILES:]:
            path.unlink(missing_ok=True)
