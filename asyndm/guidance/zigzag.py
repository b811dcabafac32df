"""Z-Sampling (Bai et al. 2024, arXiv 2412.10891, ICLR 2025): down, back up, and down again.

A step down with the prompt's guidance and back up with another one (none) leaves in the latents
what the two differ by. The way back is DDIM's inversion: the network is shown the lower state at
the upper timestep. The published code's is one index off in the library version it asks for; this
one is exact: an inversion followed by its step returns the input, where the network says the same.
"""

from __future__ import annotations

from torch import Tensor

from asyndm.core.parametrisation import Parametrisation, align
from asyndm.core.passes import Ask
from asyndm.core.rules.base import euler_step


class Zigzag:
    """Zigzags ahead of the first steps; a :class:`asyndm.core.passes.Pass`.

    Args:
        parametrisation: of the model.
        share: of the steps that zigzag, the first ones; never the one that leads to no noise.
        steps: of the run.
        up: guidance on the way up.

    Attributes:
        moving: within [0, 1], which pixels zigzag (what inpainting keeps does not); None = all.
        asking: one of its network calls is in progress.
        upwards: that call is on the way up.
    """

    def __init__(
        self, parametrisation: Parametrisation, share: float, steps: int, up: float = 0.0
    ) -> None:
        self.parametrisation, self.up = parametrisation, up
        self.steps = round(share * steps)
        self.asking = self.upwards = False
        self.moving: Tensor | None = None

    def __call__(
        self,
        i: int,
        x: Tensor,
        denoised: Tensor,
        sigma: Tensor,
        sigma_next: Tensor,
        host_sigma_next: float,
        ask: Ask,
    ) -> tuple[Tensor, Tensor]:
        if i >= self.steps or host_sigma_next <= 0:
            return x, denoised
        lower = euler_step(x, denoised, sigma, sigma_next)
        try:
            self.asking = self.upwards = True
            upper = self.invert(lower, sigma_next, sigma, lambda shown: ask(shown, self.up))
            self.upwards = False
            if self.moving is not None:
                upper = x + self.moving * (upper - x)
            return upper, ask(upper)
        finally:
            self.asking = self.upwards = False

    def invert(self, x: Tensor, sigma: Tensor, sigma_up: Tensor, network) -> Tensor:
        """Latents at ``sigma_up`` from those at ``sigma``, both maps.

        The network's input is x as it is scaled *at its own level*; its timestep, and what it says,
        belong to the upper one. For a network that is called with latents of the upper level
        that is a factor. (For v models (x - D) / sigma at the lower level would be wrong.)

        Args:
            network: latents at ``sigma_up`` -> D there.
        """
        c_in = self.parametrisation.c_in
        shown = x * (align(c_in(sigma), x) / align(c_in(sigma_up), x))
        noise = (shown - network(shown)) / sigma_up
        return x + noise * (sigma_up - sigma)
