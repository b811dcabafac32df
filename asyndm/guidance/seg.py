"""SEG, smoothed energy guidance (Hong 2024, arXiv 2408.00760, NeurIPS)."""

from __future__ import annotations

from asyndm.guidance.perturbed import Perturbed


class Seg(Perturbed):
    """Away from the prediction with blurred queries in all self-attentions of the middle.

    Args:
        strength: g.
        blur: sigma of the blur on the attention's grid; above 9999 the spatial mean.
    """

    perturbs = "blur"

    def __init__(self, strength: float = 3.0, blur: float = 10_000.0) -> None:
        super().__init__(strength)
        self.blur = blur
