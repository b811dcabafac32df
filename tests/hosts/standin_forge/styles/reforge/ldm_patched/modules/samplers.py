"""Stands for the older backend's file of that name; see ``modules/forge_backend.py``."""

from modules.forge_backend import calc_cond_uncond_batch

__all__ = ["calc_cond_uncond_batch"]
