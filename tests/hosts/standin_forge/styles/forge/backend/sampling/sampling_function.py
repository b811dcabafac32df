"""Stands for Forge's file of that name; its work is done in ``modules/forge_backend.py``."""
