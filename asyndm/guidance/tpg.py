"""TPG, token perturbation guidance (Rajabi et al. 2025, arXiv 2506.10036, NeurIPS)."""

from __future__ import annotations

from asyndm.guidance.perturbed import Perturbed


class Tpg(Perturbed):
    """Away from the prediction whose tokens are shuffled ahead of every block on the way down.

    The order is new in every step and block, but the same for all images and seeds, so that no
    image depends on its batch.
    """

    perturbs = "shuffle"
