"""PAG, perturbed-attention guidance (Ahn et al. 2024, arXiv 2403.17377, ECCV)."""

from __future__ import annotations

from asyndm.guidance.perturbed import Perturbed


class Pag(Perturbed):
    """Away from the prediction whose middle self-attentions let each pixel see itself alone."""

    perturbs = "identity"
