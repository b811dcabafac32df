"""A training step as one CUDA graph: a small network waits for nothing but its own launches."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

_WARM = 3  # steps before the capture, for kernels, workspaces and the optimizer's state


def captured(step: Callable[..., Tensor], inputs: dict[str, Tensor]) -> Callable[..., Tensor]:
    """``step``, recorded once and replayed on each call.

    Args:
        step: called with ``inputs``; forward, backward and a ``capturable`` optimizer's step, and
            nothing the program has to wait for. Returns the loss. It is really run a few times.
        inputs: of the shapes and kinds that every call will have, on the GPU.

    Returns:
        A function of the same arguments. The loss it returns is overwritten by the next call.
        ``step`` itself where it cannot be captured; one line says why.
    """
    held = {name: value.clone() for name, value in inputs.items()}
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(_WARM):
            step(**held)
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    try:
        with torch.cuda.graph(graph):
            loss = step(**held)
    except RuntimeError as error:
        torch.cuda.synchronize()
        print(f"graph: this step cannot be captured ({str(error).splitlines()[0]:.100}).")
        return step

    def replay(**given: Any) -> Tensor:
        for name, value in given.items():
            held[name].copy_(value)
        graph.replay()
        return loss

    return replay
