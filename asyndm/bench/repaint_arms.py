"""The arms of ``bench repaint``: settings, what is slow, and where norms are levelled."""

from __future__ import annotations

from dataclasses import replace

from asyndm.core.settings import Settings
from asyndm.network.norms import Reach

BASELINE = "plain inpainting"
_GIVEN = Settings(enabled=True, mask_source="given")
_LEVELLED = {
    "region slow, k .9, levelled norms": replace(_GIVEN, curvature=0.9, norms="levelled"),
    "region slow, k .9, context leads .5, levelled norms": replace(
        _GIVEN, curvature=0.9, lead=0.5, norms="levelled"
    ),
}
# where norms are levelled -> what an arm's name says of it
REACHES = {
    ", objects only": Reach(objects_only=True),
    ", from 100 on": Reach(disparity=100),
    ", from 200 on": Reach(disparity=200),
}
ARMS = {
    BASELINE: replace(_GIVEN, curvature=0.0),
    "region slow, k .3": replace(_GIVEN, curvature=0.3),
    "region slow, k .5": replace(_GIVEN, curvature=0.5),
    "region slow, k .7": replace(_GIVEN, curvature=0.7),
    "region slow, k .9": replace(_GIVEN, curvature=0.9),
    "context leads .5": replace(_GIVEN, curvature=0.0, lead=0.5),
    "context clean": replace(_GIVEN, curvature=0.0, lead=1.0),
    "region slow, k .5, context leads .5": replace(_GIVEN, curvature=0.5, lead=0.5),
    "region slow, k .9, context leads .5": replace(_GIVEN, curvature=0.9, lead=0.5),
    **_LEVELLED,
    **{f"{arm}{told}": settings for told in REACHES for arm, settings in _LEVELLED.items()},
    # the controls of a slow region: slowness alone, and the mask inverted
    "concave for all, k .9": replace(_GIVEN, curvature=0.9),
    "context slow, k .9": replace(_GIVEN, curvature=0.9),
}
SLOW = {"concave for all, k .9": "all", "context slow, k .9": "context"}  # others: the region
REACH_OF = {f"{arm}{told}": reach for told, reach in REACHES.items() for arm in _LEVELLED}
# an arm with a reach -> the same one everywhere
EVERYWHERE = {f"{arm}{told}": arm for told in REACHES for arm in _LEVELLED}
