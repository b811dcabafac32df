"""Stands for Forge's file of that name."""

from modules.forge_backend import KModel

__all__ = ["KModel"]
