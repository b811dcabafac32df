"""The synthetic world: scenes whose background tells something about their objects.

Coloured shapes stand on the ground of a landscape. The background carries what a real
photograph's would: a horizon that sets their scale, a cast shadow (by night a pool of light,
on a lake a reflection) for each object, and as many mountains as there are objects.

``coupling`` is how much the background knows: with that probability it is drawn for the
scene's own objects, otherwise for those of another, independent scene. So the backgrounds
alone look the same at every coupling, and only what they tell about the objects changes.

Of the :data:`WORLDS` that is "shadows", where an object comes first and its shadow follows.
In "beams" the background comes first: a pale beam of light falls from the sky to each object's
foot, in its colour, so that number, order, place and colour can be read off before any object is
there; and there are no mountains, shadows or reflections. In "veils" the same beams are a third
as dense, and so can be read only at less noise. In "auroras" the light is a curtain as wide as the
object whose fine rays, bright and dark, shine on the object too: what noise hides longest of an
object, its context tells.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

from . import lights
from .lights import SCALE as _SCALE
from .lights import up as _up
from .text import COLOURS, MAX_OBJECTS, PLACES, RELATIONS, SHAPES, TIMES, Group, Wish

WORLDS = ("shadows", *lights.WORLDS_OF_LIGHT)
FIRST_WORLD = WORLDS[0]  # of all files and results that name none
DEFAULT_WORLD = "auroras"
WITH_WEIGHTS = (DEFAULT_WORLD, FIRST_WORLD)  # in the package
SIZE = 64  # pixels a side
PALETTE = {
    "red": (222, 44, 48),
    "yellow": (246, 200, 30),
    "green": (22, 158, 60),
    "blue": (40, 88, 226),
    "purple": (152, 48, 206),
}
# Never in a training caption: what the model then gets right it has composed.
HELD_OUT_PAIRS = frozenset(
    {("purple", "star"), ("yellow", "square"), ("green", "triangle"), ("blue", "circle")}
)
HELD_OUT_COUNTS = frozenset({(3, "triangle"), (4, "star"), (2, "square")})

_SKY = {  # top, at the horizon
    "day": ((150, 192, 222), (214, 228, 236)),
    "sunset": ((136, 124, 160), (244, 202, 178)),
    "night": ((20, 24, 48), (52, 58, 88)),
}
_GROUND = {  # at the horizon, at the bottom
    "meadow": ((176, 192, 140), (140, 164, 108)),
    "lake": ((178, 196, 204), (126, 152, 166)),
    "beach": ((232, 220, 188), (212, 190, 150)),
    "snow": ((236, 240, 246), (214, 222, 234)),
}
_TINT = {"day": (1.0, 1.0, 1.0), "sunset": (0.94, 0.82, 0.78), "night": (0.34, 0.38, 0.48)}
_MOUNTAIN = {"day": (150, 162, 178), "sunset": (132, 112, 132), "night": (34, 38, 62)}


@dataclass(frozen=True)
class Thing:
    """One object: centre and size in pixels of the 64x64 picture."""

    shape: str
    colour: str
    x: float
    y: float
    size: float

    @property
    def bottom(self) -> float:
        return self.y + self.size / 2


@dataclass(frozen=True)
class Scene:
    """Objects and the background drawn behind them (``context``: the objects it knows of)."""

    things: tuple[Thing, ...]
    context: tuple[Thing, ...]
    horizon: float
    place: str
    time: str
    seed: int  # of the picture's small accidents: clouds, ripples, grass
    world: str = WORLDS[0]


def holds_out(wish: Wish) -> bool:
    """Whether a wish contains a pair or a count that training captions never name."""
    return any(
        (group.colour, group.shape) in HELD_OUT_PAIRS
        or (group.count, group.shape) in HELD_OUT_COUNTS
        for group in wish.groups
    )


def sample_wish(rng: np.random.Generator, held_out: bool | None = False) -> Wish:
    """A random request: one kind of objects, two, three, or two in a relation.

    Args:
        held_out: False = as in training, True = with something kept out of it, None = either.
    """
    while True:
        wish = _any_wish(rng)
        if held_out is None or holds_out(wish) == held_out:
            return wish


def _any_wish(rng: np.random.Generator) -> Wish:
    kinds: list[tuple[str, str]] = []
    while len(kinds) < 3:
        kind = (str(rng.choice(COLOURS)), str(rng.choice(SHAPES)))
        if kind not in kinds:
            kinds.append(kind)
    pattern = rng.choice(["count", "pair", "pair with count", "triple", "relation"])
    relation = None
    if pattern == "count":
        counts = [int(rng.integers(1, MAX_OBJECTS + 1))]
    elif pattern == "pair with count":
        counts = [(2, 1), (1, 2), (3, 1), (1, 3), (2, 2)][rng.integers(5)]
    elif pattern == "triple":
        counts = (1, 1, 1)
    else:
        counts = (1, 1)
        relation = str(rng.choice(RELATIONS)) if pattern == "relation" else None
    groups = tuple(Group(int(n), *kind) for n, kind in zip(counts, kinds))
    place = str(rng.choice(list(PLACES))) if rng.random() < 0.5 else None
    time = str(rng.choice(["sunset", "night"])) if rng.random() < 0.4 else None
    return Wish(groups, relation, place, time)


def sample_scene(
    rng: np.random.Generator, wish: Wish, coupling: float = 1.0, world: str = WORLDS[0]
) -> Scene:
    """A scene that fulfils ``wish``, its background coupled with probability ``coupling``."""
    horizon, things = _lay_out(rng, wish, world)
    coupled = rng.random() < coupling
    other_horizon, others = _lay_out(rng, sample_wish(rng), world)
    return Scene(
        things,
        things if coupled else others,
        horizon if coupled else other_horizon,
        wish.place or str(rng.choice(list(PLACES))),
        wish.time or ("day" if rng.random() < 0.6 else str(rng.choice(list(TIMES)))),
        int(rng.integers(2**31)),
        world,
    )


def _lay_out(rng: np.random.Generator, wish: Wish, world: str) -> tuple[float, tuple[Thing, ...]]:
    """Places for all objects, apart from each other and on the ground below the horizon."""
    kinds = [(group.shape, group.colour) for group in wish.groups for _ in range(group.count)]
    base = {1: 21.0, 2: 18.5, 3: 16.5, 4: 15.0}[len(kinds)]
    while True:
        horizon = float(rng.uniform(17, 25))
        things: list[Thing] = []
        for shape, colour in kinds:
            for _ in range(12):
                depth = rng.random()  # 0 = far, 1 = near: near things are lower and larger
                size = base * (0.84 + 0.24 * depth) * rng.uniform(0.97, 1.03)
                bottom = max(horizon + 12, size + 16) + depth * (57 - max(horizon + 12, size + 16))
                thing = Thing(
                    shape,
                    colour or str(rng.choice(COLOURS)),
                    float(rng.uniform(size / 2 + 2, SIZE - size / 2 - 2)),
                    float(bottom - size / 2),
                    float(size),
                )
                if all(
                    _apart(thing, other)
                    and abs(thing.x - other.x) >= lights.apart(world, thing.size, other.size)
                    for other in things
                ):
                    things.append(thing)
                    break
            else:
                break
        if len(things) == len(kinds) and (
            wish.relation is None or related(wish.relation, *_centres(things), margin=7.0)
        ):
            return horizon, tuple(things)


def _apart(one: Thing, two: Thing, gap: float = 3.5) -> bool:
    reach = (one.size + two.size) / 2 + gap
    return abs(one.x - two.x) > reach or abs(one.y - two.y) > reach


def _centres(things: list[Thing]) -> tuple[tuple[float, float], tuple[float, float]]:
    return (things[0].x, things[0].y), (things[1].x, things[1].y)


def related(
    relation: str, one: tuple[float, float], two: tuple[float, float], margin: float = 4.0
) -> bool:
    """Whether centre ``one`` is e.g. "left of" centre ``two`` (x, y), by ``margin`` pixels."""
    dx, dy = one[0] - two[0], one[1] - two[1]
    return {"left of": -dx, "right of": dx, "above": -dy, "below": dy}[relation] >= margin


def draw(scene: Scene) -> Image.Image:
    """The scene as a 64x64 RGB picture."""
    rng = np.random.default_rng(scene.seed)
    image = _landscape(scene, rng)
    for thing in sorted(scene.context, key=lambda thing: thing.bottom):
        colour = PALETTE[thing.colour]
        if scene.world == "auroras":
            lights.aurora(image, scene.time, thing.x, thing.bottom, thing.size, colour)
        elif scene.world in lights.WORLDS_OF_LIGHT:
            lights.beam(image, scene.world, scene.time, thing.x, thing.bottom, colour)
        else:
            _draw_trace(image, scene, thing, rng)
    for thing in sorted(scene.things, key=lambda thing: thing.bottom):
        _draw_thing(image, thing)
        if scene.world == "auroras":
            mask = Image.new("L", image.size, 0)
            half = thing.size / 2
            outline = _outline(thing.shape, thing.x, thing.y, half, half)
            ImageDraw.Draw(mask).polygon(outline, fill=255)
            lights.lit(image, mask, thing.x, thing.size)
    return image.resize((SIZE, SIZE), Image.Resampling.BOX)


def without_things(scene: Scene) -> Scene:
    """The same background without its objects (their traces stay)."""
    return replace(scene, things=())


def _landscape(scene: Scene, rng: np.random.Generator) -> Image.Image:
    side = SIZE * _SCALE
    rows = (np.arange(side) + 0.5) / _SCALE
    top, low = (np.array(colour, float) for colour in _SKY[scene.time])
    far, near = (np.array(c, float) * _TINT[scene.time] for c in _GROUND[scene.place])
    sky_part = np.clip(rows / scene.horizon, 0, 1)[:, None]
    ground_part = np.clip((rows - scene.horizon) / (SIZE - scene.horizon), 0, 1)[:, None]
    column = np.where(
        (rows < scene.horizon)[:, None],
        top + (low - top) * sky_part,
        far + (near - far) * ground_part,
    )
    pixels = np.broadcast_to(column[:, None, :], (side, side, 3)).round().astype(np.uint8)
    image = Image.fromarray(np.ascontiguousarray(pixels))
    pen = ImageDraw.Draw(image)
    _draw_sky(pen, scene, rng)
    if scene.world in lights.WORLDS_OF_LIGHT:
        return image
    _draw_mountains(pen, scene, rng)
    if scene.place == "lake":
        light = tuple(int(v) for v in np.minimum(far * 1.07 + 4, 255))
        for _ in range(9):
            y = rng.uniform(scene.horizon + 3, SIZE - 2)
            x, length = rng.uniform(0, SIZE), rng.uniform(5, 13)
            pen.line([_up(x, y), _up(x + length, y)], fill=light, width=_SCALE // 2 + 1)
    return image


def _draw_sky(pen: ImageDraw.ImageDraw, scene: Scene, rng: np.random.Generator) -> None:
    if scene.time == "night":
        for _ in range(14):
            x, y = rng.uniform(0, SIZE), rng.uniform(0, scene.horizon - 6)
            pen.ellipse([_up(x, y), _up(x + 0.9, y + 0.9)], fill=(188, 190, 206))
        x, y = rng.uniform(8, SIZE - 8), rng.uniform(4, 7)
        pen.ellipse([_up(x - 3, y - 3), _up(x + 3, y + 3)], fill=(226, 224, 208))
    else:
        low = np.array(_SKY[scene.time][1], float)
        fill = tuple(int(v) for v in np.minimum(low * 1.05 + 6, 255))
        for _ in range(2):
            x, y = rng.uniform(4, SIZE - 4), rng.uniform(3, 8)
            for dx, radius in ((-3.5, 1.6), (0, 2.3), (3.5, 1.7)):
                pen.ellipse(
                    [_up(x + dx - 2 * radius, y - radius), _up(x + dx + 2 * radius, y + radius)],
                    fill=fill,
                )


def _draw_mountains(pen: ImageDraw.ImageDraw, scene: Scene, rng: np.random.Generator) -> None:
    """As many peaks as the background's objects, spread over the horizon."""
    count = len(scene.context)
    for slot in range(count):
        x = SIZE * (slot + 0.5 + rng.uniform(-0.12, 0.12)) / count
        height, half = rng.uniform(6.5, 9.5), rng.uniform(6.5, 7.8)
        base = scene.horizon
        shade = rng.uniform(0.94, 1.04)
        fill = tuple(int(min(v * shade, 255)) for v in _MOUNTAIN[scene.time])
        pen.polygon([_up(x - half, base), _up(x, base - height), _up(x + half, base)], fill=fill)
        cap = tuple(int(v + (238 - v) * (0.75 if scene.time != "night" else 0.4)) for v in fill)
        pen.polygon(
            [
                _up(x - half * 0.3, base - height * 0.7),
                _up(x, base - height),
                _up(x + half * 0.3, base - height * 0.7),
            ],
            fill=cap,
        )


def _draw_trace(image: Image.Image, scene: Scene, thing: Thing, rng: np.random.Generator) -> None:
    """What an object leaves on the ground: a reflection, a pool of light or a cast shadow."""
    layer = Image.new("L", image.size, 0)
    pen = ImageDraw.Draw(layer)
    x, foot, half = thing.x, thing.bottom, thing.size / 2
    if scene.place == "lake":
        depth = thing.size * 0.62
        pen.polygon(_outline(thing.shape, x, foot + depth / 2, half, -depth / 2), fill=112)
        for _ in range(3):  # ripples cut through the mirrored shape
            y = foot + rng.uniform(0.15, 0.95) * depth
            pen.line([_up(x - half, y), _up(x + half, y)], fill=30, width=_SCALE // 2 + 1)
        fill = tuple(int(0.72 * value + 40) for value in PALETTE[thing.colour])
    elif scene.time == "night":
        pen.ellipse([_up(x - half * 1.15, foot - 2.2), _up(x + half * 1.15, foot + 4.4)], fill=105)
        layer = layer.filter(ImageFilter.BoxBlur(_SCALE))
        fill = tuple((value + 255) // 2 for value in PALETTE[thing.colour])
    else:
        pen.ellipse([_up(x - half * 0.7, foot - 2.2), _up(x + half * 1.6, foot + 2.4)], fill=105)
        fill = (36, 40, 56)
    image.paste(fill, mask=layer)


def _draw_thing(image: Image.Image, thing: Thing) -> None:
    pen = ImageDraw.Draw(image)
    colour = PALETTE[thing.colour]
    half = thing.size / 2
    edge = tuple(int(value * 0.8) for value in colour)
    light = tuple(int(value + (255 - value) * 0.22) for value in colour)
    pen.polygon(_outline(thing.shape, thing.x, thing.y, half, half), fill=edge)
    inner = 1 - 1.5 / half
    pen.polygon(_outline(thing.shape, thing.x, thing.y, half * inner, half * inner), fill=colour)
    spot = half * 0.2
    shift = 0.28 if thing.shape in ("circle", "square") else 0.05
    cx, cy = thing.x - half * shift, thing.y - half * (shift if shift > 0.1 else -0.1)
    pen.ellipse([_up(cx - spot, cy - spot), _up(cx + spot, cy + spot)], fill=light)


def _outline(shape: str, x: float, y: float, rx: float, ry: float) -> list[tuple[float, float]]:
    """Corners of a shape around (x, y) with half sizes rx, ry, supersampled; ry < 0 mirrors."""
    return [_up(x + rx * px, y + ry * py) for px, py in UNIT_OUTLINES[shape]]


def _unit_outlines() -> dict[str, list[tuple[float, float]]]:
    turn = np.linspace(0, 2 * np.pi, 36, endpoint=False)
    star_turn = np.pi / 5 * np.arange(10) - np.pi / 2
    radius = np.where(np.arange(10) % 2 == 0, 1.0, 0.48)
    star = np.stack([radius * np.cos(star_turn), radius * np.sin(star_turn)], 1)
    star = 2 * (star - star.min(0)) / (star.max(0) - star.min(0)) - 1  # fills its box
    return {
        "circle": [(float(np.cos(a)), float(np.sin(a))) for a in turn],
        "square": [(-0.92, -0.92), (0.92, -0.92), (0.92, 0.92), (-0.92, 0.92)],
        "triangle": [(-1.0, 0.94), (0.0, -0.94), (1.0, 0.94)],
        "star": [(float(a), float(b)) for a, b in star],
    }


UNIT_OUTLINES = _unit_outlines()
