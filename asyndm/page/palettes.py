"""Colour maps of ours, so that a WebUI without matplotlib can draw a film.

Colours at even distances, between which one goes straight; at most 2 of 255 from matplotlib's maps
of the same names. Oranges: ColorBrewer (Cynthia Brewer, Apache 2.0); viridis and magma: Nathaniel
Smith and Stefan van der Walt (CC0).
"""

from __future__ import annotations

import numpy as np

_ANCHORS = {
    "Oranges": """
        fff5eb fde5cd fdcfa2 fdad6b fc8c3c f16913 d84801 a63602 7f2704
    """,
    "viridis": """
        440154 460c5f 47186a 482273 472c7b 453681 424085 3e4989 3a528b 365a8c 32628d 2f6a8d
        2c728e 287a8e 26818e 23898d 20908c 1e978a 1e9e88 21a685 27ad80 31b47a 3dbb74 4cc26c
        5cc862 6ece58 81d34c 95d73f aadb32 bfdf24 d4e11a e9e419 fde724
    """,
    "magma": """
        000003 030311 0a0722 120d33 1c1046 281159 350f6a 430f75 50127b 5c177e 691c80 752181
        822581 8e2a80 9b2e7f a8327c b63679 c23a75 cf4070 db4769 e55063 ee5c5e f4695b f8785c
        fb8660 fd9567 fda470 feb37b fec286 fdd193 fddfa1 fceeb0 fbfcbf
    """,
}


def colours(values: np.ndarray, name: str) -> np.ndarray:
    """Values within [0, 1] as uint8 [..., 3] in the map ``name``.

    Raises:
        KeyError: no such map.
    """
    anchors = np.array([list(bytes.fromhex(colour)) for colour in _ANCHORS[name].split()], float)
    at = np.clip(np.asarray(values, float), 0, 1) * (len(anchors) - 1)
    channels = [np.interp(at, range(len(anchors)), channel) for channel in anchors.T]
    return np.uint8(np.round(np.stack(channels, axis=-1)))
