"""Stands for Forge's folder of that name."""
