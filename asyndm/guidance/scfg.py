"""S-CFG: a guidance weight for every region (Shen et al. 2024, arXiv 2404.05384, CVPR).

A region is what one token of the prompt has most of the attention of. Each region's guidance is
scaled so that the mean norm of what the prompt changes is the foreground's.
"""

from __future__ import annotations

import torch
from torch import Tensor

from asyndm.core.schedule import resample
from asyndm.guidance.base import Guess, Guidance
from asyndm.network.regions import Regions, blur3

LOW, HIGH, CAP = 0.8, 3.0, 15.0  # the authors'


class SCfg(Guidance):
    """D_u + w * rate * (D_c - D_u), with a rate for every region."""

    reads_regions = True

    def combine(self, guess: Guess) -> Tensor:
        if guess.uncond is None:
            return guess.cond
        rate = self.rate(guess)
        return guess.uncond + guess.scale * rate * guess.delta

    def rate(self, guess: Guess) -> Tensor:
        """[B, 1, H, W]; the norm is taken of what the network itself says.

        In terms of D it would grow with the noise level, so that a slow region would be told apart
        by its clock alone.
        """
        eps = guess.delta / guess.sigma
        if guess.velocity:
            eps = eps * (1 + guess.sigma**2).sqrt()
        norm = eps.float().norm(dim=1)
        rates = [_rate(norm[j], *_maps(guess.regions, j)) for j in range(len(norm))]
        rate = torch.stack(rates)[:, None]
        # 15 / w as a ceiling; w may be 0 or below where somebody guides backwards.
        ceiling = CAP / torch.as_tensor(guess.scale, device=rate.device).abs().clamp(min=1e-6)
        return blur3(rate.clamp(LOW, HIGH).minimum(ceiling.to(rate.dtype)))


def _maps(regions: Regions | None, image: int) -> tuple[Tensor, Tensor]:
    if regions is None or image not in regions.words or image not in regions.free:
        raise RuntimeError("S-CFG: the network's attention was not seen in this step.")
    return regions.words[image], regions.free[image]


def _rate(norm: Tensor, words: Tensor, free: Tensor) -> Tensor:
    """One image's rates [H, W], before clamps, from its norm [H, W] and maps (see Regions)."""
    size = tuple(norm.shape)
    region = resample(words.argmax(dim=0)[None], size)[0]
    foreground = resample((free[0] <= free[1])[None], size)[0]
    count = words.shape[0]
    flat = region.flatten()
    sums = norm.new_zeros(count).index_add_(0, flat, norm.flatten())
    pixels = norm.new_zeros(count).index_add_(0, flat, torch.ones_like(norm).flatten())
    mean = sums / pixels.clamp(min=1)
    inside = foreground.sum()
    front = torch.where(foreground, norm, 0.0).sum() / inside.clamp(min=1)
    rate = front / mean.clamp(min=1e-12)[region]
    return torch.where(inside > 0, rate, 1.0)  # no foreground: plain guidance
