"""Make ``asyndm/core/nouns.txt`` from a WordNet 3.0 ``dict`` folder (Debian: package wordnet-base).

    python tools/make_nouns.py /usr/share/wordnet

Kept is every noun that WordNet uses mostly for something one can see as an object: animals,
artefacts, food, natural objects, people, plants, and plane or solid shapes. What counts are the
tagged uses of its senses, not which comes first (a raccoon is a fur before it is an animal); a
noun without tagged uses needs such a sense among its first two. The list is cut at 120 KB by
frequency: the counts of the tagged texts, plus how often WordNet's own glosses use
the word (the tagged texts are too small to know a skateboard).

One line a noun: the word, then its irregular plurals, separated by spaces; an underscore joins
the parts of a compound ("teddy_bear"). Five sections: things; ``#food``, of them those one eats;
``#scenery``, what objects stand in or before; ``#verb``, things whose word is mostly a verb
("a monitor", but "to monitor"); ``#other``, the commonest words that name no thing, so
that an unknown word can be told from them.
"""

from __future__ import annotations

import argparse
import re
from collections import Counter, defaultdict
from functools import lru_cache
from pathlib import Path

LIMIT = 120_000  # bytes of nouns.txt
VERB_SCORE = 5  # a noun that is mostly a verb needs to be kept
OTHERS = 50_000  # of them for common words that name no thing, and for scenery
# Lexicographer files of WordNet: animal, artifact, food, object, person, plant.
PHYSICAL_FILES = {5, 6, 13, 17, 18, 20}
LIVING_FILES = {5, 18, 20}
TOPS_FILE = 3  # of the most general: animal, plant, person
ANIMAL_FILE = 5
FOOD_FILE = 13
SHAPE_ROOTS = {"two-dimensional_figure", "three-dimensional_figure", "polyhedron", "sphere"}
ROOM_ROOT = "room"  # what lies below it is scenery as a living room is
GAME_ROOT = "athletic_game"  # prompts name its ball by the game: "playing soccer"
BODY_FILE = 8
PHYSICAL_SHARE = 0.5  # of the tagged uses of a noun

# What a prompt says about the picture, not about what is in it.
STYLE_WORDS = set(
    """
    art artist artwork photo photograph photographer photography picture image painting painter
    portrait portraiture illustration illustrator sketch drawing masterpiece poster wallpaper
    render rendering canvas watercolor watercolour oil acrylic pastel charcoal ink print
    engraving lithograph etching woodcut collage mosaic fresco mural caricature cartoon comic
    anime manga film movie cinema still snapshot screenshot frame camera lens bokeh flash
    closeup close-up shot icon logo design designer pattern texture style stylist pixel vector
    model studio exhibition gallery album cover illumination lighting light shade shadow color
    colour palette composition figure detail quality resolution effect filter subject object
    abstraction artefact artifact impressionist expressionist surrealist cubist realist romantic
    classic modern master genius beginner professional expert amateur creation product
    production stock trending paint brushstroke black white color_film black-and-white
    photomontage daguerreotype pencil_drawing line_drawing pen_and_ink still_life oil_painting
    water-color landscape seascape hologram diagram chart thumbnail backdrop background
    foreground scene scenery setting view vista panorama
    """.split()
)
# Too general to be pointed at, or in prompts nearly always another part of speech.
COLOUR_NOUNS = {"orange", "lime", "olive", "peach", "rose", "salmon", "violet", "plum", "cherry"}
EMPTY_WORDS = set(
    """
    thing item piece part pair set whole unit body being individual creature organism edible
    perennial aquatic shelter organs constituent inhabitant resident assembly transport
    merchandise commodity apparatus facility implement receptacle container partner companion
    structure construction instrumentality device equipment instrument material line back side
    base way place space area point center centre middle top bottom end edge corner front rear
    face left right close round flat high low long short second third first half quarter works
    work job issue kind sort self other one two three four five six seven eight nine ten hundred
    thousand million dozen couple lot many few some any all can may will might like well fast
    cut stay rest catch cross block stop start support stand building_block layer section
    segment field land ground earth floor surface level stage open cool hot cold neat fine mean
    kind good better best worst great super ultra big small little very tall wide thick thin
    living dead wild natural native local general major minor regular special common particular
    female male young old adult senior junior double single twin cute pretty beautiful lovely
    fantastic epic giant monster wonder dark bright clear deep soft hard light-duty so-and-so it
    he she me us a b c d e f g h i j k l m n o p q r s t u v w x y z
    """.split()
) - {"monster", "adult", "giant", "twin", "cross"}
# Scenery: what the objects stand on or in front of; it is the background whose clarity helps them.
SCENERY_WORDS = set(
    """
    sky sea ocean lake river beach shore coast horizon desert plain meadow landscape world
    universe space water land continent bay valley hill hillside stream wood woods forest jungle
    field street road path room city town village country park yard garden floor wall ceiling
    """.split()
)
# Common in prompts, but not physical in their first WordNet sense, or too rare in its texts.
EXTRA_WORDS = set(
    """
    bear kite skis tv sink church school table letter mug crown newspaper flamingo noodles
    watermelon dress watch television radio scroll chest coin crystal skeleton skull puzzle
    shower van t-shirt person people glass book pillow lantern ring diamond heart cross crescent
    arrow cloud sun moon wave flame fire smoke snowman robot dragon unicorn fairy mermaid zombie
    ghost angel demon alien wizard witch elf dwarf superhero ninja samurai pirate cyborg panda
    koala hippo giraffe zebra kitten puppy corgi teddy_bear fire_hydrant hot_dog stop_sign
    traffic_light parking_meter cell_phone wine_glass potted_plant dining_table tennis_racket
    baseball_bat baseball_glove hair_drier remote_control donut doughnut pizza burger hamburger
    taco sushi ramen croissant pancake waffle cupcake ice_cream laptop smartphone tablet drone
    skateboard snowboard surfboard frisbee scooter motorbike suv pickup backpack handbag
    suitcase microwave fridge hoodie sneaker polar_bear school_bus coffee_cup sports_car
    police_car steam_engine space_station light_bulb rubber_duck sand_castle sphere cube pyramid
    cylinder cuboid prism octahedron torus hexagon pentagon rhombus trapezoid
    rugby_ball branch counter pants shorts sign staff remote sports_ball
    """.split()
)
# What WordNet's first sense hides: adjectives, verb forms and names far commoner than the noun.
AMBIGUOUS_WORDS = set(
    """
    asshole god kingdom realm remains preserve drop must don led spoke felt agent member
    covering serving facing hanging coating setting following lining hind hearing compact stiff
    sole mean elder inferior superior used plain viewer looking looker solo
    """.split()
)
EXCLUDED = AMBIGUOUS_WORDS | STYLE_WORDS | EMPTY_WORDS | SCENERY_WORDS
WORD = re.compile(r"[a-z]+(?:[-_][a-z]+)?")


@lru_cache
def read_lemmas(path: Path) -> set[str]:
    """The first word of every line of an index or exception file."""
    return {line.split()[0] for line in path.read_text("utf-8").splitlines() if line[:1] != " "}


@lru_cache
def read_synsets(
    folder: Path,
) -> tuple[dict[str, int], dict[str, list[str]], Counter[str], set[str]]:
    """Of ``data.noun``: lexicographer file and hypernyms by offset; word counts of all glosses;
    the nouns that are written in lower case."""
    lower_case: set[str] = set()
    files: dict[str, int] = {}
    hypernyms: dict[str, list[str]] = {}
    gloss_counts: Counter[str] = Counter()
    for name in ("data.noun", "data.verb", "data.adj", "data.adv"):
        for line in (folder / name).read_text("utf-8").splitlines():
            if line.startswith("  "):  # the licence
                continue
            fields, _, gloss = line.partition("|")
            words = re.findall(r"[a-z]+", gloss.lower())
            gloss_counts.update(words)
            gloss_counts.update(f"{a}_{b}" for a, b in zip(words, words[1:], strict=False))
            if name == "data.noun":
                parts = fields.split()
                files[parts[0]] = int(parts[1])
                lower_case.update(
                    w for w in parts[4 : 4 + 2 * int(parts[3], 16) : 2] if w.islower()
                )
                hypernyms[parts[0]] = [
                    b for a, b in zip(parts, parts[1:], strict=False) if a == "@"
                ]
    return files, hypernyms, gloss_counts, lower_case


@lru_cache
def read_counts(folder: Path) -> tuple[dict[str, Counter[int]], Counter[str]]:
    """Of ``cntlist.rev``: tagged uses of each noun by lexicographer file; of other word classes."""
    nouns: dict[str, Counter[int]] = defaultdict(Counter)
    others: Counter[str] = Counter()
    for line in (folder / "cntlist.rev").read_text("utf-8").splitlines():
        key, _, count = line.split()
        lemma, _, sense = key.partition("%")
        kind, file, *_ = sense.split(":")
        if kind == "1":
            nouns[lemma][int(file)] += int(count)
        else:
            others[lemma] += int(count)
    return nouns, others


def is_shape(offset: str, hypernyms: dict[str, list[str]], roots: set[str]) -> bool:
    """Whether the synset lies below one of the root synsets."""
    return offset in roots or any(
        is_shape(up, hypernyms, roots) for up in hypernyms.get(offset, ())
    )


def general_things(files: dict[str, int], hypernyms: dict[str, list[str]]) -> set[str]:
    """The most general synsets that most of what lies directly below are things: animal, plant."""
    below: dict[str, list[bool]] = defaultdict(list)
    for offset, up in hypernyms.items():
        for parent in up:
            if files.get(parent) == TOPS_FILE and files[offset] != TOPS_FILE:
                below[parent].append(files[offset] in LIVING_FILES)
    return {offset for offset, kinds in below.items() if sum(kinds) > len(kinds) / 2}


@lru_cache
def read_scenery(folder: Path) -> set[str]:
    """``SCENERY_WORDS`` and every kind of room whose word names no other thing (no toilet)."""
    files, hypernyms, *_ = read_synsets(folder)
    senses: dict[str, list[str]] = {}
    for line in (folder / "index.noun").read_text("utf-8").splitlines():
        if not line.startswith("  "):
            parts = line.split()
            senses[parts[0]] = parts[-int(parts[2]) :]
    root = {senses[ROOM_ROOT][0]}
    rooms = {
        noun
        for noun, offsets in senses.items()
        if WORD.fullmatch(noun)
        and noun not in EXTRA_WORDS
        and is_shape(offsets[0], hypernyms, root)
        and not any(
            files[offset] in PHYSICAL_FILES and not is_shape(offset, hypernyms, root)
            for offset in offsets
        )
    }
    return SCENERY_WORDS | rooms | {"cityscape", "townscape", "moonscape", "cloudscape"}


def rank_nouns(folder: Path, verbs: bool = False) -> list[tuple[float, str]]:
    """(score, noun) of every noun that may enter the list, the best first.

    Where ``verbs`` is set: of those that are left out since they are mostly verbs.
    """
    files, hypernyms, gloss_counts, lower_case = read_synsets(folder)
    adjectives = read_lemmas(folder / "index.adj")
    verb_forms = read_lemmas(folder / "verb.exc")
    tagged, others = read_counts(folder)
    senses: dict[str, list[str]] = {}
    for line in (folder / "index.noun").read_text("utf-8").splitlines():
        if not line.startswith("  "):
            parts = line.split()
            senses[parts[0]] = parts[-int(parts[2]) :]  # most frequent sense first
    roots = {offset for root in SHAPE_ROOTS for offset in senses[root]}
    roots.update(senses[GAME_ROOT])
    general = general_things(files, hypernyms)
    scenery = read_scenery(folder)
    verb_lemmas = read_lemmas(folder / "index.verb")
    ranked = [] if verbs else [(float("inf"), noun) for noun in EXTRA_WORDS]
    for noun, offsets in senses.items():
        if len(noun) < 2 or noun in EXCLUDED | EXTRA_WORDS or not WORD.fullmatch(noun):
            continue
        if noun.rstrip("s") in EXCLUDED or noun not in lower_case:
            continue  # a plural of such a word; a proper name, a Latin family name
        if noun in scenery or noun.replace("-", "_").rpartition("_")[2] in scenery:
            continue  # and a compound of scenery: blue sky, living room
        shape = is_shape(offsets[0], hypernyms, roots)
        first = files[offsets[0]] in PHYSICAL_FILES or offsets[0] in general
        uses = tagged.get(noun, Counter())
        total = sum(uses.values())
        physical = sum(n for file, n in uses.items() if file in PHYSICAL_FILES)
        if offsets[0] in general:
            physical += uses[TOPS_FILE]
        if total:
            thing = first and physical >= PHYSICAL_SHARE * total or physical > total / 2
        else:
            second = [files[offset] for offset in offsets[1:2]]
            thing = first or ANIMAL_FILE in second
        if not (thing or shape):
            continue
        mostly = not shape and (
            others[noun] > 2 * physical + 5
            or (noun in adjectives or noun in verb_forms)
            and physical <= others[noun]
            and noun not in COLOUR_NOUNS
        )
        verb = noun in verb_lemmas and not (noun in adjectives or noun in verb_forms)
        verb = verb and noun.isalpha()
        if mostly and not (verbs and verb) or verbs and not mostly:
            continue  # mostly a verb or an adjective
        score = 2 * total + gloss_counts[noun] + (20 if shape else 0)
        if "_" in noun or "-" in noun:
            score = score / 2 - 1  # a compound is found by its last word too
        if files[offsets[0]] == 18:
            score /= 2  # people have more names than anything else
        ranked.append((score, noun))
    return sorted(ranked, key=lambda pair: (-pair[0], len(pair[1]), pair[1]))


def read_plurals(folder: Path) -> dict[str, list[str]]:
    """Irregular plurals by noun, without those that the rules of ``asyndm.core.nouns`` undo."""
    from asyndm.core.nouns import regular_singulars

    plurals: dict[str, list[str]] = defaultdict(list)
    for line in (folder / "noun.exc").read_text("utf-8").splitlines():
        plural, *bases = line.split()
        for base in bases:
            if WORD.fullmatch(plural) and base not in regular_singulars(plural):
                plurals[base].append(plural)
    return plurals


def read_food(folder: Path) -> set[str]:
    """Nouns that have a sense among the first three that one eats."""
    files = read_synsets(folder)[0]
    food = set()
    for line in (folder / "index.noun").read_text("utf-8").splitlines():
        if not line.startswith("  "):
            parts = line.split()
            if any(files[offset] == FOOD_FILE for offset in parts[-int(parts[2]) :][:3]):
                food.add(parts[0])
    return food


def rank_others(folder: Path, things: set[str]) -> list[str]:
    """Words of all classes that name no thing and that no ending tells, the commonest first.

    Irregular forms of verbs are among them ("worn"); parts of the body come before others.
    """
    from asyndm.core.choice import is_adjective

    files, _, gloss_counts, lower_case = read_synsets(folder)
    things = things | {noun for _, noun in rank_nouns(folder)}
    tagged, others = read_counts(folder)
    lemmas = {
        lemma
        for kind in ("noun", "verb", "adj", "adv")
        for lemma in read_lemmas(folder / f"index.{kind}")
        if len(lemma) > 2 and re.fullmatch(r"[a-z]+", lemma)
        if kind != "noun" or lemma in lower_case  # names stay unknown
    }
    lemmas |= {form for form in read_lemmas(folder / "verb.exc") if form.isalpha()}
    lemmas = {lemma for lemma in lemmas if not is_adjective(lemma)}
    body = {
        parts[0]
        for line in (folder / "index.noun").read_text("utf-8").splitlines()
        if not line.startswith("  ") and files[(parts := line.split())[-int(parts[2])]] == BODY_FILE
    }
    counts = {
        word: (others[word] + sum(tagged.get(word, Counter()).values()) + gloss_counts[word])
        * (2 if word in body else 1)
        for word in lemmas - things
    }
    # What was left out by hand would else be taken for a name.
    known = {word for word in EXCLUDED if len(word) > 2 and word.isalpha()} - things
    counts |= {word: counts.get(word, 0) + 1_000_000 for word in known}
    return sorted(counts, key=lambda word: (-counts[word], len(word), word))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, help="WordNet's dict folder")
    out = Path(__file__).resolve().parents[1] / "asyndm" / "core" / "nouns.txt"
    parser.add_argument("--out", type=Path, default=out)
    args = parser.parse_args()
    plurals, food = read_plurals(args.folder), read_food(args.folder)
    things: dict[str, str] = {}
    scenery = sorted(word for word in read_scenery(args.folder) if word.isalpha())
    verbs = sorted(
        noun for score, noun in rank_nouns(args.folder, verbs=True) if score >= VERB_SCORE
    )
    size = len("#food\n#scenery\n#verb\n#other\n") + sum(len(word) + 1 for word in verbs)
    size += sum(len(word) + 1 for word in scenery)
    for _, noun in rank_nouns(args.folder):
        line = " ".join([noun, *plurals.get(noun, ())]) + "\n"
        if size + len(line) > LIMIT - OTHERS:
            break
        things[noun] = line
        size += len(line)
    others: list[str] = []
    taken = {form for line in things.values() for form in line.split()} | {*scenery, *verbs}
    for word in rank_others(args.folder, taken):
        line = " ".join([word, *plurals.get(word, ())]) + "\n"
        if size + len(line) > LIMIT:
            break
        others.append(line)
        size += len(line)
    lines = [
        *sorted(line for noun, line in things.items() if noun not in food),
        *("#food\n", *sorted(line for noun, line in things.items() if noun in food)),
        *("#scenery\n", *(word + "\n" for word in scenery)),
        *("#verb\n", *(word + "\n" for word in verbs)),
        *("#other\n", *sorted(others)),
    ]
    args.out.write_text("".join(lines), "ascii")
    print(f"{len(things)} nouns, {len(others)} other words, {size} bytes: {args.out}")


if __name__ == "__main__":
    main()
