"""Pipelines and checkpoints of diffusers, for people who use these rather than a WebUI.

    with asyndm.steer(pipe, asyndm.Settings(curvature=0.7)) as steered:
        image = pipe("a cat riding a bike").images[0]

``Checkpoint`` is the one loader for all that works on a checkpoint of one's own.
"""

from asyndm.pipelines.checkpoint import Checkpoint, load_pipeline, size_of
from asyndm.pipelines.result import Steered
from asyndm.pipelines.steering import steer

__all__ = ["Checkpoint", "Steered", "load_pipeline", "size_of", "steer"]
