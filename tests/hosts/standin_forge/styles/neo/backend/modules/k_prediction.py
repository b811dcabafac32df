"""Stands for Forge's file of that name."""

from modules.forge_backend import EPS


class Prediction(EPS):
    prediction_type: str
