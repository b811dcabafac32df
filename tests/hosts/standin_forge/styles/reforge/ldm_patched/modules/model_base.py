"""Stands for the older backend's file of that name."""

from modules.forge_backend import KModel as BaseModel

__all__ = ["BaseModel"]
