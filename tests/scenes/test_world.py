"""The small world: prompts, scenes, and the checker that reads pictures back."""

import colorsys
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from asyndm.scenes import lights
from asyndm.scenes.checker import background_quality, check, find_objects, object_mask
from asyndm.scenes.text import (
    COUPLINGS,
    MAX_TOKENS,
    VOCABULARY,
    Group,
    PromptError,
    Wish,
    parse_prompt,
    token_ids,
    tokenize,
)
from asyndm.scenes.world import (
    HELD_OUT_COUNTS,
    HELD_OUT_PAIRS,
    PALETTE,
    WORLDS,
    draw,
    holds_out,
    sample_scene,
    sample_wish,
    without_things,
)

seeds = st.integers(0, 2**31)


@given(seeds)
def test_a_wish_survives_its_own_sentence(seed):
    wish = sample_wish(np.random.default_rng(seed), held_out=None)
    expected = replace(wish, time=wish.time)
    assert parse_prompt(wish.prompt()) == expected


@given(seeds, st.sampled_from(COUPLINGS))
def test_tokens_fit_and_mean_the_words(seed, coupling):
    wish = sample_wish(np.random.default_rng(seed), held_out=None)
    tokens = tokenize(wish.prompt(), coupling)
    ids = token_ids(tokens)
    assert len(ids) == MAX_TOKENS
    assert [VOCABULARY[i] for i in ids[: len(tokens)]] == tokens
    assert set(ids[len(tokens) :]) <= {VOCABULARY.index("<pad>")}


@given(st.text(max_size=60))
def test_any_text_is_read_or_refused_in_one_line(text):
    try:
        parse_prompt(text)
    except PromptError as error:
        assert str(error).startswith("prompt: ") and "\n" not in str(error)


@pytest.mark.parametrize(
    ("prompt", "named"),
    [
        ("", "empty"),
        (" , ", "empty"),
        ("two red unicorns", "'unicorns'"),
        ("on a lake at night", "no object"),
        ("four red circles and a blue star", "5 objects"),
        ("a red circle left of a blue star and a green star", "left of"),
        ("a red circle " * 12, "too many"),
        ("<pad> red circle", "'<pad>'"),
    ],
)
def test_unreadable_prompts_name_the_cause(prompt, named):
    with pytest.raises(PromptError, match=".*") as caught:
        parse_prompt(prompt)
    assert named in str(caught.value)


def test_training_wishes_never_hold_out_and_both_kinds_exist():
    rng = np.random.default_rng(3)
    for _ in range(500):
        wish = sample_wish(rng)
        assert not holds_out(wish)
        for group in wish.groups:
            assert (group.colour, group.shape) not in HELD_OUT_PAIRS
            assert (group.count, group.shape) not in HELD_OUT_COUNTS
    assert holds_out(sample_wish(rng, held_out=True))


def test_the_checker_reads_2000_rendered_scenes():
    rng = np.random.default_rng(7)
    right = 0
    for number in range(2000):
        wish = sample_wish(rng, held_out=None)
        picture = draw(sample_scene(rng, wish, COUPLINGS[number % 3]))
        right += check(picture, wish).right
    assert right >= 0.99 * 2000


@pytest.mark.parametrize(("world", "covers"), [("beams", 225 / 255), ("veils", 76 / 255)])
@given(seed=seeds, coupling=st.sampled_from(COUPLINGS))
def test_beams_tell_number_order_place_and_colour_and_are_no_objects(world, covers, seed, coupling):
    rng = np.random.default_rng(seed)
    wish = sample_wish(rng, held_out=None)
    scene = sample_scene(rng, wish, coupling, world)
    empty = np.asarray(draw(without_things(scene)), float)
    bare = np.asarray(draw(replace(scene, things=(), context=())), float)
    assert not object_mask(empty).any()
    beams = np.abs(empty - bare).sum(-1) > 27 * covers
    clear_sky = int(scene.horizon) - 2  # a row that no cloud, star or foot reaches
    edges = np.diff(beams[clear_sky].astype(int), prepend=0, append=0)
    starts, ends = (np.flatnonzero(edges == sign) for sign in (1, -1))
    expected = sorted(scene.context, key=lambda thing: thing.x)
    assert len(starts) == len(expected)
    for start, end, thing in zip(starts, ends, expected, strict=True):
        assert abs((start + end) / 2 - thing.x) < 1.2
        at = clear_sky, (start + end) // 2
        tint = (bare[at] + (empty[at] - bare[at]) / covers).clip(0, 255)
        hues = [colorsys.rgb_to_hsv(*tint / 255)[0]]
        hues += [colorsys.rgb_to_hsv(*np.array(rgb) / 255)[0] for rgb in PALETTE.values()]
        apart = np.abs(np.array(hues[1:]) - hues[0])
        assert list(PALETTE)[np.minimum(apart, 1 - apart).argmin()] == thing.colour


@given(seed=seeds, coupling=st.sampled_from(COUPLINGS))
def test_auroras_tell_all_of_their_objects_but_the_shape(seed, coupling):
    """Above each object of the context: a curtain of its colour, as wide as it, to its top."""
    rng = np.random.default_rng(seed)
    wish = sample_wish(rng, held_out=None)
    scene = sample_scene(rng, wish, coupling, "auroras")
    empty = np.asarray(draw(without_things(scene)), float)
    bare = np.asarray(draw(replace(scene, things=(), context=())), float)
    assert not object_mask(empty).any()
    curtains = np.abs(empty - bare).sum(-1) > 9
    row = 1  # above stars, clouds and objects
    edges = np.diff(curtains[row].astype(int), prepend=0, append=0)
    starts, ends = (np.flatnonzero(edges == sign) for sign in (1, -1))
    expected = sorted(scene.context, key=lambda thing: thing.x)
    assert abs(curtains[row].sum() - sum(lights.WIDE * thing.size for thing in expected)) < 8
    assert len(starts) <= len(expected)  # two may touch
    for thing in expected:
        left, right = thing.x - lights.WIDE * thing.size / 2, thing.x + lights.WIDE * thing.size / 2
        inside = slice(int(np.ceil(left)) + 1, int(right) - 1)
        assert curtains[row, inside].all()
        top, foot = thing.bottom - thing.size, thing.bottom
        behind = curtains[int(np.ceil(top)) + 1 : int(foot) - 1, inside]
        others = [o for o in expected if o is not thing and abs(o.x - thing.x) < o.size]
        assert others or not behind.any()
        hues = [colorsys.rgb_to_hsv(*np.median(empty[row, inside], 0) / 255)[0]]
        hues += [colorsys.rgb_to_hsv(*np.array(rgb) / 255)[0] for rgb in PALETTE.values()]
        apart = np.abs(np.array(hues[1:]) - hues[0])
        assert list(PALETTE)[np.minimum(apart, 1 - apart).argmin()] == thing.colour


def test_an_object_shows_the_rays_of_its_own_aurora():
    """Its columns are bright where its curtain's are; where the context is another's, by chance."""
    agreement = {0.0: [], 1.0: []}
    for coupling, found in agreement.items():
        rng = np.random.default_rng(3)
        for _ in range(120):
            wish = Wish((Group(1, "red", "square"),))
            scene = sample_scene(rng, wish, coupling, "auroras")
            if len(scene.context) != 1:
                continue
            picture = np.asarray(draw(scene), float).mean(-1)
            (thing,) = scene.things
            reach = int(0.2 * thing.size)
            own = picture[int(thing.y), int(thing.x) - reach : int(thing.x) + reach + 1]
            light = picture[1, int(thing.x) - reach : int(thing.x) + reach + 1]
            if np.ptp(light) > 0 and np.ptp(own) > 0:
                found.append(np.corrcoef(own, light)[0, 1])
    assert np.mean(agreement[1.0]) > 0.8
    assert abs(np.mean(agreement[0.0])) < 0.5 < np.mean(agreement[1.0])


@pytest.mark.parametrize("world", WORLDS)
def test_the_checker_reads_every_world(world):
    rng = np.random.default_rng(17)
    wishes = [sample_wish(rng, held_out=None) for _ in range(150)]
    read = [check(draw(sample_scene(rng, wish, 1.0, world)), wish).right for wish in wishes]
    assert sum(read) >= 148


def test_the_checker_refuses_the_wrong_scene():
    rng = np.random.default_rng(8)
    accepted = 0
    for _ in range(200):
        wish, other = sample_wish(rng), sample_wish(rng)
        if wish.groups != other.groups:
            accepted += check(draw(sample_scene(rng, wish)), other).right
    assert accepted == 0


def test_the_relation_is_checked_both_ways():
    rng = np.random.default_rng(9)
    red, blue = Group(1, "red", "circle"), Group(1, "blue", "square")
    picture = draw(sample_scene(rng, Wish((red, blue), "left of")))
    assert check(picture, Wish((red, blue), "left of")).right
    verdict = check(picture, Wish((red, blue), "right of"))
    assert not verdict.right
    assert verdict.sentence == "red circle: yes; blue square: yes; right of: no"


def test_the_sentence_says_what_is_missing_and_what_is_too_many():
    rng = np.random.default_rng(10)
    two_red = Group(2, "red", "circle")
    picture = draw(sample_scene(rng, Wish((two_red,))))
    wanted = Wish((two_red, Group(1, "blue", "square")))
    assert check(picture, wanted).sentence == "two red circles: yes; blue square: missing"
    one = check(picture, Wish((Group(1, "red", "circle"),)))
    assert one.sentence == "red circle: no, 2 found" and not one.right
    other = check(picture, Wish((Group(1, "blue", "star"),)))
    assert "not asked for: red circle, red circle" in other.sentence


def test_a_group_of_any_colour_leaves_named_colours_alone():
    rng = np.random.default_rng(11)
    red, blue = Group(1, "red", "star"), Group(1, "blue", "star")
    picture = draw(sample_scene(rng, Wish((red, blue))))
    assert check(picture, Wish((Group(1, None, "star"), red))).right


def test_backgrounds_look_alike_at_every_coupling_but_only_coupled_ones_know_the_count():
    """The marginal number of traces is the same; its agreement with the objects is the dose."""
    agreement, context = {}, {}
    for coupling in COUPLINGS:
        rng = np.random.default_rng(12)
        scenes = [sample_scene(rng, sample_wish(rng), coupling) for _ in range(1500)]
        context[coupling] = np.mean([len(scene.context) for scene in scenes])
        agreement[coupling] = np.mean([scene.context == scene.things for scene in scenes])
    assert agreement[0.0] == 0 and agreement[1.0] == 1
    assert abs(agreement[0.5] - 0.5) < 0.05
    assert max(context.values()) - min(context.values()) < 0.12


def test_a_background_without_objects_shows_none():
    rng = np.random.default_rng(13)
    for _ in range(100):
        scene = without_things(sample_scene(rng, sample_wish(rng)))
        assert not object_mask(np.asarray(draw(scene))).any()
        assert find_objects(draw(scene)) == []


def test_background_quality_sees_noise_and_blur():
    from PIL import ImageFilter

    rng = np.random.default_rng(14)
    picture = draw(sample_scene(rng, sample_wish(rng)))
    clean = background_quality(picture)
    pixels = np.asarray(picture, float)
    noisy = np.clip(pixels + rng.normal(0, 6, pixels.shape[:2])[..., None], 0, 255)
    blurred = background_quality(picture.filter(ImageFilter.GaussianBlur(1.5)))
    assert clean["noise"] < 0.5
    assert background_quality(noisy)["noise"] == pytest.approx(6, rel=0.25)
    assert blurred["sharpness"] < 0.75 * clean["sharpness"]


def test_the_same_seed_draws_the_same_picture():
    pictures = []
    for _ in range(2):
        rng = np.random.default_rng(15)
        pictures.append(np.asarray(draw(sample_scene(rng, sample_wish(rng), 0.5))))
    assert np.array_equal(*pictures)
