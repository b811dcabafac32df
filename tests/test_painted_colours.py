"""What is painted in colours on a canvas is read as one object a colour."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from asyndm.core.settings import Settings
from asyndm.hosts import webui
from asyndm.page.controls import LATER, POSITIONAL, values_of

SETTINGS = Settings(enabled=True, mask_source="given", mask_colours="red=cat:0.9, #00f=dog")


def strokes(alpha: int) -> Image.Image:
    """Forge's canvas: strokes are what is opaque, with soft edges; nothing else is."""
    drawn = Image.new("RGBA", (24, 12))
    drawn.paste((255, 0, 0, alpha), (0, 0, 8, 12))
    drawn.paste((0, 0, 255, alpha), (16, 0, 24, 12))
    drawn.paste((255, 0, 0, 40), (8, 0, 9, 12))  # a brush's edge
    return drawn


@pytest.mark.parametrize("alpha", [255, 200])
@pytest.mark.parametrize("picture", [None, Image.new("RGB", (24, 12), "green")])
def test_colours_of_forges_canvas(alpha, picture):
    arguments = [
        *values_of(SETTINGS, POSITIONAL),
        *(picture, strokes(alpha)),
        *values_of(SETTINGS, LATER),
    ]
    settings, (cat, dog) = webui.read_arguments(arguments, mask_parts=2)
    assert settings == SETTINGS
    assert [(o.word, o.curvature) for o in (cat, dog)] == [("cat", 0.9), ("dog", None)]
    columns = np.arange(24)
    assert np.array_equal(cat.mask[5] > 0.5, columns < 8)
    assert np.array_equal(dog.mask[5] > 0.5, columns >= 16)
