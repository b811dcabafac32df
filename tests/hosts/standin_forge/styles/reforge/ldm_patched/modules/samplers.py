"""Stands for the older backend's file of that name; see ``modules/forge_backend.py``."""
