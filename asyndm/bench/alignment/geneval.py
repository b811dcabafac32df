"""GenEval's 553 prompts by its templates and its random seed (Ghosh et al. 2023, 2310.11513, MIT).

The order of random draws is the published generator's, so that the prompts and the metadata by
which pictures are judged are the published ones byte for byte (a test holds their hash).
"""

from __future__ import annotations

import json
from typing import Any

import numpy as np

SEED = 43
TASKS = ("single_object", "two_object", "counting", "colors", "position", "color_attr")
COLOURS = (
    *("red", "orange", "yellow", "green", "blue", "purple", "pink", "brown", "black", "white"),
)
OBJECTS = tuple(
    "person,bicycle,car,motorcycle,airplane,bus,train,truck,boat,traffic light,fire hydrant,"
    "stop sign,parking meter,bench,bird,cat,dog,horse,sheep,cow,elephant,bear,zebra,giraffe,"
    "backpack,umbrella,handbag,tie,suitcase,frisbee,skis,snowboard,sports ball,kite,baseball bat,"
    "baseball glove,skateboard,surfboard,tennis racket,bottle,wine glass,cup,fork,knife,spoon,bowl,"
    "banana,apple,sandwich,orange,broccoli,carrot,hot dog,pizza,donut,cake,chair,couch,"
    "potted plant,bed,dining table,toilet,tv,laptop,computer mouse,tv remote,computer keyboard,"
    "cell phone,microwave,oven,toaster,sink,refrigerator,book,clock,vase,scissors,teddy bear,"
    "hair drier,toothbrush".split(",")
)  # COCO's 80, some by clearer names; the first is no object to colour
_POSITIONS = ("left of", "right of", "above", "below")
_COUNTS = {2: "two", 3: "three", 4: "four"}


def prompts(seed: int = SEED, each: int = 100) -> list[dict[str, Any]]:
    """The set: what each prompt asks for (``tag``, ``include``, ``exclude``) and its text.

    Args:
        seed: of the draws; the published set has 43.
        each: prompts a task before repetitions are dropped.
    """
    rng = np.random.default_rng(seed)
    made = [_single(int(i)) for i in rng.choice(len(OBJECTS), size=len(OBJECTS), replace=False)]
    for task in (_two, _counting, _coloured, _placed, _attributed):
        made += [task(rng) for _ in range(each)]
    return list({json.dumps(one, sort_keys=True): one for one in made}.values())


def as_published(seed: int = SEED) -> str:
    """The text of ``evaluation_metadata.jsonl``."""
    return "".join(json.dumps(one) + "\n" for one in prompts(seed))


def fault_of(asks: dict[str, Any]) -> str:
    """What is wrong in a prompt's ``include`` and ``exclude``; "" where nothing is."""
    for name in ("include", "exclude"):
        entries = asks.get(name, [])
        if not isinstance(entries, list):
            return f"{name} is no list"
        for place, one in enumerate(entries):
            at = f"{name} {place + 1}"
            if not isinstance(one, dict) or not isinstance(one.get("class"), str):
                return f"{at} has no class"
            count = one.get("count")
            if not isinstance(count, int) or isinstance(count, bool) or count < 1:
                return f"{at}: count is {count!r}, not a number of objects"
            if one.get("color", COLOURS[0]) not in COLOURS:
                return f"{at}: color is {one['color']!r}, not one of {', '.join(COLOURS)}"
            where = one.get("position", [_POSITIONS[0], -1])
            sound = isinstance(where, list) and len(where) == 2 and where[0] in _POSITIONS
            if not sound or ("position" in one and where[1] not in range(place)):
                return f"{at}: position is {where!r}, not e.g. ['left of', 0] of an entry before it"
    return ""


def _a(name: str) -> str:
    return f"{'an' if name[0] in 'aeiou' else 'a'} {name}"


def _entry(name: str, count: int = 1, **more: Any) -> dict[str, Any]:
    return {"class": name, "count": count, **more}


def _sample(tag: str, include: list[dict], what: str, **more: Any) -> dict[str, Any]:
    return {"tag": tag, "include": include, **more, "prompt": f"a photo of {what}"}


def _single(index: int) -> dict[str, Any]:
    return _sample("single_object", [_entry(OBJECTS[index])], _a(OBJECTS[index]))


def _two_names(rng: np.random.Generator) -> list[str]:
    return [OBJECTS[i] for i in rng.choice(len(OBJECTS), size=2, replace=False)]


def _two(rng: np.random.Generator) -> dict[str, Any]:
    one, two = _two_names(rng)
    return _sample("two_object", [_entry(one), _entry(two)], f"{_a(one)} and {_a(two)}")


def _counting(rng: np.random.Generator) -> dict[str, Any]:
    name = OBJECTS[rng.choice(len(OBJECTS))]
    count = int(rng.integers(2, 4, endpoint=True))
    return _sample(
        "counting",
        [_entry(name, count)],
        f"{_COUNTS[count]} {name}{'es' if name.endswith('s') else 's'}",
        exclude=[_entry(name, count + 1)],
    )


def _coloured(rng: np.random.Generator) -> dict[str, Any]:
    name = OBJECTS[rng.choice(len(OBJECTS) - 1) + 1]
    colour = COLOURS[rng.choice(len(COLOURS))]
    return _sample("colors", [_entry(name, color=colour)], f"{_a(colour)} {name}")


def _placed(rng: np.random.Generator) -> dict[str, Any]:
    one, two = _two_names(rng)
    place = _POSITIONS[rng.choice(len(_POSITIONS))]
    include = [_entry(two), _entry(one, position=[place, 0])]
    return _sample("position", include, f"{_a(one)} {place} {_a(two)}")


def _attributed(rng: np.random.Generator) -> dict[str, Any]:
    one, two = (OBJECTS[i + 1] for i in rng.choice(len(OBJECTS) - 1, size=2, replace=False))
    first, second = (COLOURS[i] for i in rng.choice(len(COLOURS), size=2, replace=False))
    include = [_entry(one, color=first), _entry(two, color=second)]
    return _sample("color_attr", include, f"{_a(first)} {one} and {_a(second)} {two}")
