"""Files of masks: beside their image, under its number."""

from __future__ import annotations

from pathlib import Path

import pytest
from jobs import make, ticked
from PIL import Image

SAVED = {"save_images": True}
ENDS = ("", "-film", "-mask")


@pytest.fixture
def files(monkeypatch):
    """What the host's own function wrote, with what its patterns saw then."""
    from modules import images

    written, save = [], images.save_image

    def watched(image, *given, **named):
        p = named["p"]
        made = save(image, *given, **named)
        written.append((Path(made[0]), p.iteration, p.batch_index))
        return made

    monkeypatch.setattr(images, "save_image", watched)
    from modules import processing

    if hasattr(processing, "save_image"):
        monkeypatch.setattr(processing, "save_image", watched)
    return written


def test_numbers_of_saved_masks_are_their_images(host, traces, files):
    asked = ticked(curvature=0.8, save_masks=True)
    make(host, "txt2img", batch_size=2, n_iter=2, **SAVED, **asked)
    names = [path.stem for path, *_ in files if "grid" not in path.stem]
    plain = [name for name in names if "asyndm" not in name]
    assert len(plain) == 4
    assert sorted(set(names) - set(plain)) == sorted(
        f"{name}-asyndm{end}" for name in plain for end in ENDS
    )
    assert len({path for path, *_ in files}) == len(files)  # nothing is written twice
    for path, iteration, index in files:
        assert path.exists()
        if "asyndm" in path.stem:  # the seed and the pattern's numbers are the image's
            (own,) = [f for f in files if path.stem.startswith(f"{f[0].stem}-asyndm")]
            assert path.parent == own[0].parent and (iteration, index) == own[1:]
            assert Image.open(path).text["parameters"] == Image.open(own[0]).text["parameters"]


def test_masks_of_images_that_are_not_saved(host, traces, files):
    make(host, "txt2img", batch_size=2, **ticked(curvature=0.8, save_masks=True))
    assert len({path for path, *_ in files}) == 6 and all(p.exists() for p, *_ in files)
    assert [index for *_, index in files] == [0, 0, 0, 1, 1, 1]


def test_the_film_shows_the_picture_so_far(host, traces, monkeypatch):
    from asyndm.hosts import shims

    asked = ticked(curvature=0.8, show_masks=True)
    made = make(host, "txt2img", **asked)
    monkeypatch.setattr(shims, "cheap_pictures", lambda latents: 1 / 0)
    without = make(host, "txt2img", **asked)  # a model that has no such preview
    assert made.pictures[2].height > without.pictures[2].height
    assert made.pictures[0].tobytes() == without.pictures[0].tobytes()


def test_the_film_of_every_image_of_a_batch(host, traces, monkeypatch):
    from modules import sd_vae_approx

    asked = {"batch_size": 2, **ticked(curvature=0.8, show_masks=True)}
    made = make(host, "txt2img", **asked)
    own = sd_vae_approx.cheap_approximation
    # Neo's looks at the first image alone, whatever it is given.
    monkeypatch.setattr(sd_vae_approx, "cheap_approximation", lambda x: own(x[:1]))
    same = make(host, "txt2img", **asked)
    assert [p.tobytes() for p in same.pictures] == [p.tobytes() for p in made.pictures]
    films = made.pictures[-4:]  # a film and a mask an image
    assert len({p.tobytes() for p in films}) == 4


def test_only_the_steps_that_are_shown_are_kept(host, traces, monkeypatch):
    from asyndm.hosts import shims

    shapes, cheap = [], shims.cheap_pictures
    monkeypatch.setattr(
        shims, "cheap_pictures", lambda x: shapes.append(tuple(x.shape)) or cheap(x)
    )
    make(host, "txt2img", steps=30, batch_size=2, **ticked(curvature=0.8, show_masks=True))
    assert len(shapes) == 8 and set(shapes) == {(2, *shapes[0][1:])}
    shapes.clear()
    make(host, "txt2img", steps=30, **ticked(curvature=0.8))
    assert not shapes
