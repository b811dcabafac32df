"""FID (Heusel et al. 2017, 1706.08500) and KID (Binkowski et al. 2018, 1801.01401) of whole sets.

Features are those of torch-fidelity's Inception, whose weights are a file of one's own; it needs
torchvision, so it has an environment of its own (requirements/fid.txt). The distances are
torchmetrics'. They say how near a method's pictures lie to other pictures, not to their prompts.
"""

from __future__ import annotations

import io
import warnings
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from asyndm.core.settings import SettingsError

from .base import Absent, Options, SetScore, Value, hash_of, libraries

PICTURES = (".png", ".jpg", ".jpeg", ".webp", ".bmp")
_SUBSETS, _SUBSET = 100, 1000  # KID's, of at most so many pictures
_FULL = 2049  # fewer pictures do not fill a covariance of 2048 features
_SEED = 4504


class _Given(nn.Module):
    """Features that are known already, in the place of a network."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.num_features = width

    def forward(self, features: Tensor) -> Tensor:
        return features


class Fid(SetScore):
    """The distance of two normal distributions of Inception's features."""

    name, direction, range, batch = "fid", -1, (0.0, float("inf")), 8

    def __init__(self, options: Options) -> None:
        super().__init__(options)
        path = options.path(self.name, "inception", "weights-inception-2015-12-05-6726825d.pth")
        self.path = _file_in(path)
        if options.reference is None:
            raise Absent(f"{self.name}: no pictures to compare with; give --reference FOLDER.")
        self.pictures = pictures_in(options.reference)
        import torchmetrics  # noqa: F401 - of the distances; better now than behind all features

        try:
            self.network = _inception(self.path).to(options.device)
        except Absent:
            raise
        except Exception as error:  # of many kinds: files, pickles, shapes
            why = (str(error).splitlines() or [type(error).__name__])[0]
            raise Absent(f"{self.name}: {self.path} cannot be loaded ({why:.120}).") from None

    def version(self):
        return {
            "weights": hash_of(self.path),
            "reference": f"{len(self.pictures)} pictures {hash_of(self.options.reference)}",
            **libraries("torch-fidelity", "torchmetrics", "torch"),
        }

    def reference(self):
        for path in self.pictures:
            try:
                with Image.open(path) as opened:
                    image = opened.convert("RGB")
            except OSError:
                raise SettingsError(f"reference: {path} is no picture that can be read.") from None
            yield str(path.relative_to(self.options.reference)), image

    @torch.no_grad()
    def features(self, images):
        found = []
        for image in images:  # of different sizes
            pixels = torch.from_numpy(np.array(image.convert("RGB"))).permute(2, 0, 1)[None]
            found.append(self.network(pixels.to(self.options.device))[0].float().cpu())
        return torch.cat(found).numpy()

    def distance(self, mine, others):
        few = min(len(mine), len(others))
        note = ""
        if few < _FULL:
            note = f"of {few} pictures, fewer than its 2048 features: compare equal numbers only"
        return Value(fid(mine, others), note)


class Kid(Fid):
    """The squared maximum mean discrepancy of Inception's features; unbiased on few pictures."""

    name, range = "kid", (-float("inf"), float("inf"))

    def distance(self, mine, others):
        mean, deviation = kid(mine, others)
        return Value(mean, parts={"deviation": deviation})


def fid(mine: np.ndarray, others: np.ndarray) -> float:
    """Of features [n, d] and [m, d]."""
    from torchmetrics.image.fid import FrechetInceptionDistance

    return float(_fed(FrechetInceptionDistance(_Given(mine.shape[1])), mine, others).compute())


def kid(mine: np.ndarray, others: np.ndarray) -> tuple[float, float]:
    """(mean, standard deviation) over subsets, by the polynomial kernel (x y / d + 1)^3."""
    from torchmetrics.image.kid import KernelInceptionDistance

    size = min(len(mine), len(others), _SUBSET)
    with warnings.catch_warnings(), torch.random.fork_rng(devices=[]):
        warnings.simplefilter("ignore")  # that it keeps all features
        torch.manual_seed(_SEED)
        metric = KernelInceptionDistance(_Given(mine.shape[1]), subsets=_SUBSETS, subset_size=size)
        mean, deviation = _fed(metric, mine, others).compute()
    return float(mean), float(deviation)


def _fed(metric: nn.Module, mine: np.ndarray, others: np.ndarray) -> nn.Module:
    metric.update(torch.from_numpy(others).double(), real=True)
    metric.update(torch.from_numpy(mine).double(), real=False)
    return metric


def pictures_in(folder: Path) -> list[Path]:
    """A folder's pictures, those in folders inside it as well.

    Raises:
        Absent: there are not two of them.
    """
    found = sorted(p for p in folder.rglob("*") if p.suffix.lower() in PICTURES and p.is_file())
    if len(found) < 2:
        raise Absent(f"reference: {folder} holds {len(found)} pictures; give a folder of many.")
    return found


def _file_in(path: Path) -> Path:
    if path.is_file():
        return path
    files = sorted(path.glob("*.pth"))
    if len(files) != 1:
        raise Absent(f"inception: {path} holds {len(files)} files .pth; give the file itself.")
    return files[0]


def _inception(path: Path) -> nn.Module:
    try:
        from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3
    except (ImportError, RuntimeError) as error:  # RuntimeError: a torchvision of another torch
        name = "torch-fidelity" if "torch_fidelity" in str(error) else "a fitting torchvision"
        raise Absent(
            f"fid, kid: {name} is not installed; make an environment of its own by: "
            "pip install -r requirements/fid.txt"
        ) from None
    state = torch.load(path, map_location="cpu", weights_only=True)
    safe = io.BytesIO()  # the library itself would unpickle whatever the file holds
    torch.save(state, safe)
    safe.seek(0)
    return FeatureExtractorInceptionV3(
        "inception-v3-compat", ["2048"], feature_extractor_weights_path=safe
    )
