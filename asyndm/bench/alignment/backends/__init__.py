"""What draws: the embedded model, a checkpoint, WebUIs, or nobody (pictures that are there)."""

from .base import Backend, Drawn, Job, Setup, open_backend

__all__ = ["Backend", "Drawn", "Job", "Setup", "open_backend"]
