"""Stands for Forge's file of that name; its work is done in ``modules/forge_backend.py``."""

from modules.forge_backend import calc_cond_uncond_batch

__all__ = ["calc_cond_uncond_batch"]
