"""Layers read together give what each image's own give."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from asyndm.network.pile import Pile


@pytest.mark.parametrize("width", [5, 8, 40])
@pytest.mark.parametrize("room", [2, 5])
def test_what_is_read_of_an_image_does_not_depend_on_its_batch(width: int, room: int) -> None:
    """To the last bit: a cell whose attention is its mean must fall to the same side."""
    torch.manual_seed(0)
    heads, sizes = 8, (256, 77)
    layers = [[0.3 * torch.randn(3, n, heads * width) for n in sizes] for _ in range(5)]

    def shares(rows: slice) -> Tensor:
        pile = Pile(*(x[rows] for x in layers[0]), heads, room)
        for q, k in layers:
            pile.add(q[rows], k[rows])
        return pile.shares()

    together = shares(slice(None))
    assert all(torch.equal(together[j], shares(slice(j, j + 1))[0]) for j in range(3))
