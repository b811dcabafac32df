"""What draws: the embedded model, a checkpoint, WebUIs, or nobody (pictures that are there)."""

from .base import READ_BY, Backend, Drawn, Job, Setup, of_world, open_backend

__all__ = ["READ_BY", "Backend", "Drawn", "Job", "Setup", "of_world", "open_backend"]
