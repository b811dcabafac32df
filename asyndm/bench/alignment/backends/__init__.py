"""What draws: the embedded model, a checkpoint, WebUIs, or nobody (pictures that are there)."""

from .base import OF_DIFFUSERS, Backend, Drawn, Job, Setup, open_backend

__all__ = ["OF_DIFFUSERS", "Backend", "Drawn", "Job", "Setup", "open_backend"]
