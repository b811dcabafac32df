"""Z-Sampling's way up and down again."""

from __future__ import annotations

import pytest
import torch
from core_toys import PARAMETRISATIONS

from asyndm.core.rules import make_rule
from asyndm.guidance.zigzag import Zigzag


def draw(seed: int) -> torch.Tensor:
    return torch.randn(2, 4, 6, 10, generator=torch.Generator().manual_seed(seed))


class Steady:
    """A network that says the same noise at one timestep, whatever it is shown."""

    def __init__(self, name: str) -> None:
        self.name, self.parametrisation = name, PARAMETRISATIONS[name]
        self.noise = draw(11).double()

    def says(self, z, sigma):
        """The output for latents in the network's scaling, at the timestep of ``sigma``."""
        cos = 1 / (1 + sigma**2).sqrt()  # v = (eps - sin z) / cos
        return (self.noise - sigma * cos * z) / cos if self.name == "v" else self.noise

    def __call__(self, x, sigma):
        """D of latents at ``sigma``."""
        output = self.says(x * self.parametrisation.c_in(sigma), sigma)
        return self.parametrisation.denoised(x, output, sigma)


@pytest.mark.parametrize("name", ["eps", "v", "flow"])
@pytest.mark.parametrize("uneven", [False, True])
def test_an_inversion_followed_by_its_step_returns_the_input(name, uneven):
    network = Steady(name)
    low, high = torch.full((2, 1, 6, 10), 0.35), torch.full((2, 1, 6, 10), 0.85)
    if uneven:
        low, high = (
            torch.linspace(0.2, 0.6, 120).view(2, 1, 6, 10),
            torch.linspace(0.65, 0.95, 120).view(2, 1, 6, 10),
        )
    low, high = low.double(), high.double()
    x = draw(12).double()
    zigzag = Zigzag(network.parametrisation, 1.0, 4)
    up = zigzag.invert(x, low, high, lambda shown: network(shown, high))
    back = make_rule("euler").step(up, network(up, high), high, low, 0.85, 0.35)
    torch.testing.assert_close(back, x)
    if name == "v":  # where the noise is told at the lower level the way does not come back
        p = network.parametrisation
        d = p.denoised(x, network.says(x * p.c_in(low), high), low)
        naive = x + (x - d) / low * (high - low)
        lost = make_rule("euler").step(naive, network(naive, high), high, low, 0.85, 0.35) - x
        assert lost.abs().max() > 0.05


def test_zigzags_are_the_first_steps_and_never_the_last():
    asked = []
    zigzag = Zigzag(PARAMETRISATIONS["eps"], 0.5, 4, up=0.5)
    level = torch.full((2, 1, 6, 10), 2.0)

    def ask(x, scale=None):
        asked.append((scale, zigzag.upwards))
        return x * 0

    x, d = draw(0), draw(1)
    for i, after in enumerate((1.0, 1.0, 1.0, 0.0)):
        made = zigzag(i, x, d, level, level / 2, after, ask)
        assert (made[0] is x) == (i >= 2)
    assert asked == [(0.5, True), (None, False)] * 2
    last = Zigzag(PARAMETRISATIONS["eps"], 1.0, 4)(3, x, d, level, level * 0, 0.0, ask)
    assert last == (x, d)
