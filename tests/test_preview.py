"""The pictures of what steered: heat map with its legend, film in the dark, their files' names."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from asyndm.core.history import Frame
from asyndm.page import preview


def frames(steps: int, batch: int = 2) -> list[Frame]:
    half = torch.zeros(batch, 8, 8)
    half[:, :4] = 1
    return [Frame(half, half, half, 1000 * half) for _ in range(steps)]


def shot(steps: int = 3, hires: bool = False, guesses: dict | None = None, **more):
    return SimpleNamespace(
        iteration=0, hires=hires, objects="cat", frames=frames(steps), guesses=guesses or {}, **more
    )


@pytest.mark.parametrize("size", [(96, 96), (128, 96), (1024, 640)])
def test_a_heat_map_has_a_legend_from_0_to_1(size):
    plain = Image.new("RGB", size, "white")
    made = preview.heat_map(plain, np.ones((4, 4)), "cat")
    assert made.width == size[0] and made.height > size[1]
    legend = np.asarray(made, int)[size[1] :]
    row = legend[legend.shape[0] // 2]
    orange = np.abs(row - (255, 122, 26)).sum(1)
    assert orange.min() < 60  # the scale reaches the colour of 1
    assert not np.array_equal(
        legend, np.asarray(preview.heat_map(plain, np.ones((4, 4)), "dog"))[size[1] :]
    )
    other = preview.heat_map(plain, np.zeros((4, 4)), "cat")  # the same words, other values
    assert np.array_equal(np.asarray(other)[size[1] :], legend)


@pytest.mark.parametrize("word", ["", "猫", "a" * 300, "пёс, cat"])
def test_a_legend_of_any_word_fits(word):
    made = preview.heat_map(Image.new("RGB", (96, 64)), np.ones((4, 4)), word)
    assert made.width == 96 and made.height < 64 + 40


def test_a_word_that_the_font_lacks_is_not_shown_as_boxes():
    image, values = Image.new("RGB", (512, 64)), np.ones((4, 4))
    made = preview.heat_map(image, values, "猫")
    assert made.tobytes() == preview.heat_map(image, values, "犬").tobytes()
    assert made.tobytes() != preview.heat_map(image, values, "cat").tobytes()


def test_a_webuis_film_has_a_dark_ground():
    (film,) = [
        picture
        for _, picture, suffix in preview.gallery([shot()], [Image.new("RGB", (64, 64))], 2, 0)
        if suffix.endswith(preview.FILM)
    ]
    ground = np.asarray(film, int)[-1, :40]  # below the titles
    assert ground.max() < 60
    titles = np.asarray(film, int)[:, :200].max()
    assert titles > 200  # and the titles stand out


def test_a_webuis_film_shows_the_picture_so_far():
    images = [Image.new("RGB", (64, 64))] * 2
    guesses = {i: np.full((2, 8, 8, 3), 40 * (i + 1), np.uint8) for i in range(3)}
    for i in guesses:
        guesses[i][1] += 5

    def films(**made) -> list[Image.Image]:
        shots = [shot(**made)]
        return [f for _, f, s in preview.gallery(shots, images, 2, 0) if s.endswith(preview.FILM)]

    without, shown = films(), films(guesses=guesses)
    assert [f.height for f in shown] > [f.height for f in without]
    for number, film in enumerate(shown):
        pixels = np.asarray(film)
        for i in range(3):
            assert (pixels == 40 * (i + 1) + 5 * number).all(-1).sum() > 1000
    # a run that ended early: the nearest of the steps that were kept
    early = films(guesses={0: guesses[0], 2: guesses[2]})
    assert early[0].height == shown[0].height


def test_every_picture_of_an_image_has_a_name_of_its_own():
    shots = [shot(), shot(hires=True)]
    made = list(preview.gallery(shots, [Image.new("RGB", (64, 64))] * 2, 2, 0))
    assert len(made) == 2 * 2 * 3
    names = [(number, suffix) for number, _, suffix in made]
    assert len(set(names)) == len(names)
    assert sum(preview.is_plain_mask(suffix) for _, suffix in names) == 4
