"""Layers read together give what each image's own give."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from asyndm.network.pile import LOGITS_BYTES, Pile, joint_shares


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


class Largest(TorchDispatchMode):
    """The most bytes that one tensor had."""

    bytes = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        made = function(*args, **(kwargs or {}))
        for each in made if isinstance(made, (tuple, list)) else [made]:
            if isinstance(each, Tensor):
                self.bytes = max(self.bytes, each.numel() * each.element_size())
        return made


@pytest.mark.parametrize("softmax", ["text", "joint"])
def test_memory_is_bounded_head_by_head_at_1024x1024(softmax: str) -> None:
    """24 heads over 4096 tokens of the image: all of a layer's logits would be 1.7 GB."""
    torch.manual_seed(0)
    heads, width, tokens, pixels = 24, 8, 333, 64 * 64
    q, image = (torch.randn(1, pixels, heads * width) for _ in range(2))
    text, weight = torch.randn(1, tokens, heads * width), torch.rand(1, tokens, 2)
    with Largest() as most:
        if softmax == "text":
            pile = Pile(q, text, heads, 24)
            pile.add(q, text)
            shares = pile.shares() @ weight
        else:
            shares = joint_shares(q, text, image, heads, weight)
    one_head = 4 * pixels * (tokens + (pixels if softmax == "joint" else 0))
    assert most.bytes <= max(LOGITS_BYTES, one_head)
    keys = text if softmax == "text" else torch.cat([text, image], 1)
    some = slice(100, 110)
    own = [x.unflatten(-1, (heads, width)).transpose(1, 2) for x in (q[:, some], keys)]
    logits = own[0] @ own[1].mT / width**0.5
    expected = logits.softmax(-1)[..., :tokens].mean(1) @ weight
    assert float((shares[:, some] - expected).abs().max()) < 1e-6
