"""The context map against closed forms, and what is said of it."""

from __future__ import annotations

import copy
import json

import pytest
import torch
from context_toys import TABLE, Apart, Pooled, Related, object_masks

from asyndm.network.context_claim import (
    HARMS,
    HELPS,
    UNTOLD,
    background_on_path,
    judge,
    sentence,
    student,
)
from asyndm.network.context_controls import CONTROLS, boxes, shifted, strange_context
from asyndm.network.context_map import ContextMeter, grid_levels, log_snr

LEVELS = grid_levels(TABLE, 6)
SEEDS = 20


def measured(toy, seed=0, count=32, levels=LEVELS, move=lambda masks: masks, **changes):
    """The report of a toy's pictures; ``move`` hands the meter other masks than the true ones."""
    generator = torch.Generator().manual_seed(seed)
    where = object_masks(count, generator)
    denoiser = toy(where, **changes)
    meter = ContextMeter(TABLE, levels)
    meter.add(denoiser, denoiser.pictures(generator), move(where), range(count))
    return meter.report()


def test_levels_are_even_in_log_snr():
    levels = grid_levels(TABLE, 12)
    assert levels[0] == 990 and levels[-1] == 50 and levels == sorted(levels, reverse=True)
    steps = log_snr(TABLE, torch.tensor(levels).double()).diff()
    assert (steps / steps.mean() - 1).abs().max() < 0.03  # whole timesteps


@pytest.mark.parametrize("count", [2, 900])
def test_levels_that_cannot_be(count):
    with pytest.raises(ValueError, match=f"levels: {count} are too"):
        grid_levels(TABLE, count)


@pytest.mark.parametrize("background", [(0.4, 1.0), (0.0, 1.0)])
def test_the_map_is_the_closed_form(background):
    """Every cell of both lists, with correlation of object and background and without."""
    generator = torch.Generator().manual_seed(3)
    where = object_masks(300, generator)
    toy = Related(where, background=background)
    meter = ContextMeter(TABLE, LEVELS, controls=())
    meter.add(toy, toy.pictures(generator), where, range(300))
    report = meter.report()
    for part, region in (("objects", where), ("background", ~where)):
        assert len(report[part]) == 6 * 7 / 2
        for row in report[part]:
            high, low = (
                TABLE.sigma(torch.tensor(float(row[name]))) for name in ("t_object", "t_background")
            )
            sigma = torch.where(where, high, low)
            alike = torch.full_like(sigma, float(high if part == "objects" else low))
            ideal, one_level = (toy.variance(s)[region].mean() for s in (sigma, alike))
            assert row["error"] == pytest.approx(float(ideal), rel=0.06)
            assert row["change"] == pytest.approx(
                float(ideal / one_level - 1), abs=4 * row["se"] + 1e-6
            )
            if row["t_object"] == row["t_background"]:
                assert row["change"] == row["se"] == 0
            elif part == "objects" and background[0]:
                assert row["change"] < 0.01
            elif part == "objects":
                assert abs(row["change"]) < 1e-6  # the background tells nothing, to a digit


def test_the_standard_error_is_that_of_many_repetitions():
    change = [measured(Related, seed)["objects"][1] for seed in range(30)]
    spread = torch.tensor([row["change"] for row in change]).std()
    told = torch.tensor([row["se"] for row in change]).mean()
    assert 0.7 < spread / told < 1.4


def test_a_picture_is_measured_alike_alone_and_in_a_batch():
    generator = torch.Generator().manual_seed(0)
    where = object_masks(8, generator)
    toy = Related(where)
    pictures = toy.pictures(generator)
    whole, parts = (ContextMeter(TABLE, LEVELS, controls=()) for _ in range(2))
    whole.add(toy, pictures, where, range(8))
    for first in (0, 4):
        mine = slice(first, first + 4)
        parts.add(Related(where[mine]), pictures[mine], where[mine], range(first, first + 4))
    assert whole.report() == parts.report()
    assert whole.calls == 6 + 15


def test_calls_are_counted_as_they_are_told():
    generator = torch.Generator().manual_seed(0)
    where = object_masks(4, generator)
    toy = Related(where)
    meter, calls = ContextMeter(TABLE, LEVELS), []
    meter.add(toy, toy.pictures(generator), where, range(4), lambda: calls.append(1))
    near = len(meter.report()["controls"]["boxed"])
    assert len(calls) == meter.calls - near  # nothing reads attention here
    assert set(meter.report()["controls"]) == {*CONTROLS} - {"attention"}


def test_an_error_midway_leaves_nothing_of_its_batch():
    generator = torch.Generator().manual_seed(0)
    where = object_masks(4, generator)
    toy = Related(where)
    pictures = toy.pictures(generator)
    meter = ContextMeter(TABLE, LEVELS)
    meter.add(toy, pictures, where, range(4))
    before = meter.report()

    def stop():
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        meter.add(toy, pictures, where, range(4), stop)
    assert meter.report() == before


@pytest.mark.parametrize(
    ("masks", "says"),
    [
        (torch.zeros(4, 8, 8, dtype=torch.bool), "masks: bool"),
        (torch.zeros(4, 1, 8, 8), "masks: bool"),
        (torch.zeros(4, 1, 4, 4, dtype=torch.bool), "masks: bool"),
    ],
)
def test_masks_that_do_not_fit(masks, says):
    with pytest.raises(ValueError, match=says):
        ContextMeter(TABLE, LEVELS).add(Related(masks), torch.zeros(4, 4, 8, 8), masks, range(4))


def test_pictures_without_objects_are_left_out_and_told():
    generator = torch.Generator().manual_seed(0)
    where = object_masks(6, generator)
    toy = Related(where)
    given = where.clone()
    given[2], given[4] = False, True
    meter = ContextMeter(TABLE, LEVELS)
    meter.add(toy, toy.pictures(generator), given, range(6))
    assert (meter.pictures, meter.left_out) == (4, 2)
    assert meter.report()["pictures"] == 4
    empty = ContextMeter(TABLE, LEVELS)
    empty.add(toy, toy.pictures(generator), torch.zeros_like(where), range(6))
    with pytest.raises(ValueError, match="Only 0 of the pictures"):
        empty.report()


def test_boxes_are_those_of_the_connected_pieces():
    mask = torch.zeros(2, 6, 8, dtype=torch.bool)
    mask[0, 0, 0] = mask[0, 1, 1] = mask[0, 2, 0] = True  # joined by corners
    mask[0, 4, 5] = mask[0, 5, 7] = True  # two of their own
    expected = torch.zeros_like(mask)
    expected[0, 0:3, 0:2] = expected[0, 4, 5] = expected[0, 5, 7] = True
    assert torch.equal(boxes(mask), expected)


def test_boxes_are_scipys():
    ndimage = pytest.importorskip("scipy.ndimage")
    masks = torch.rand(6, 16, 12, generator=torch.Generator().manual_seed(1)) < 0.2
    for mask, mine in zip(masks, boxes(masks)):
        pieces, _ = ndimage.label(mask.numpy(), structure=[[1] * 3] * 3)
        box = torch.zeros_like(mask)
        for rows, columns in ndimage.find_objects(pieces):
            box[rows, columns] = True
        assert torch.equal(mine, box)


def test_a_shifted_mask_stays_at_its_height():
    mask = torch.rand(2, 4, 6, generator=torch.Generator().manual_seed(1)) < 0.3
    assert torch.equal(shifted(shifted(mask)), mask)
    assert torch.equal(shifted(mask).sum(-1), mask.sum(-1))


def test_a_strange_context_keeps_every_object():
    clean = torch.arange(3.0).view(3, 1, 1, 1).expand(3, 2, 4, 4)
    mask = torch.zeros(3, 4, 4, dtype=torch.bool)
    mask[0, 0, 0] = mask[1, 1, 1] = mask[2, 2, 2] = True
    made = strange_context(clean, mask)
    assert made[0, 0, 0, 0] == 0 and made[0, 0, 3, 3] == 2
    assert made[0, 0, 2, 2] == 0  # where the other picture has its object


def verdicts(toy, **changes):
    return [judge(measured(toy, seed, **changes)).verdict for seed in range(SEEDS)]


def test_a_related_background_is_called_help():
    assert verdicts(Related).count(HELPS) >= 18


@pytest.mark.parametrize(
    ("toy", "changes"),
    [
        (Apart, {}),  # the map tells where objects are, and does nothing else
        (Related, {"background": (0.0, 1.0)}),
        (Related, {"background": (0.0, 1.0), "believed": (0.1, 1.0)}),
    ],
)
def test_an_unrelated_background_is_not_called_help(toy, changes):
    assert verdicts(toy, **changes).count(HELPS) <= 1


def test_the_true_mask_alone_would_call_independent_pixels_help():
    """Why there are controls: without them this toy passes by far."""
    claims = [judge(measured(Apart, seed)) for seed in range(4)]
    assert all(claim.whole.change.high < -0.05 for claim in claims)
    assert {claim.whole.least for claim in claims} == {"strange"}


def test_pooled_statistics_are_called_harm():
    assert verdicts(Pooled).count(HARMS) >= 18


@pytest.mark.parametrize(("toy", "reverse"), [(Related, HARMS), (Pooled, HELPS), (Apart, HELPS)])
def test_shifted_masks_never_reverse_it(toy, reverse):
    def move(masks):
        return shifted(masks[:, 0])[:, None]

    assert verdicts(toy, move=move).count(reverse) == 0


@pytest.fixture(scope="module")
def related():
    return measured(Related)


def test_the_sentence_has_the_figures_of_its_rows(related):
    claim, said = judge(related), sentence(related)
    assert claim.verdict == HELPS
    assert said.startswith("Clearer context helps objects on the path of k .9, beyond the controls")
    assert "32 pictures" in said and str(claim.whole.change) in said
    assert f"Above timestep 850: {claim.high.change}" in said
    assert f"At 500: {claim.cost.change}" in said
    assert str(claim.background) in said and "Not measured: attention." in said
    assert json.loads(json.dumps(related)) == related  # as a file keeps it
    assert sentence(json.loads(json.dumps(related))) == said


def altered(report, change):
    report = copy.deepcopy(report)
    change(report)
    return report


def _raise_errors(report):
    for row in (*report["objects"], *report["controls"]["boxed"]):
        row["change"] += 0.5 * (row["t_object"] != row["t_background"])


def _widen(report):
    for row in report["objects"]:
        row["se"] += 0.5 * (row["t_object"] != row["t_background"])


def _equal(name):
    def change(report):
        for row in report["controls"][name]:
            row["change"], row["beyond"] = -0.2, 0.0

    return change


def _wide_control(report):
    for row in report["controls"]["boxed"]:
        row["change"] = 0.01


def _without(name):
    return lambda report: report["controls"].pop(name)


@pytest.mark.parametrize(
    ("change", "verdict"),
    [
        (_raise_errors, HARMS), (_widen, UNTOLD), (_wide_control, UNTOLD),
        *((_equal(name), UNTOLD) for name in ("shifted", "foreign", "strange")),
        *((_without(name), UNTOLD) for name in ("shifted", "foreign", "strange", "boxed")),
    ],
)  # fmt: skip
def test_other_rows_are_another_verdict_and_another_sentence(related, change, verdict):
    other = altered(related, change)
    assert judge(other).verdict == verdict
    said = sentence(other)
    assert said != sentence(related)
    opening = {
        HARMS: "Clearer context harms objects",
        UNTOLD: "Whether clearer context helps or harms objects on the path of k .9 cannot be told "
        "from 32 pictures",
    }[verdict]
    assert said.startswith(opening)


@pytest.mark.parametrize("part", ["objects", "background"])
def test_every_row_near_the_path_is_read(related, part):
    before, heard = sentence(related), 0
    for row in range(len(related[part])):
        other = altered(related, lambda r, row=row: r[part][row].update(change=0.4, se=0.1))
        heard += sentence(other) != before
    assert heard >= len(LEVELS) - 1


def _map(value):
    """A report whose objects change by value(t_object) just below the diagonal, and further."""
    rows = [
        {"t_object": a, "t_background": b, "error": 1.0, "se": 1e-6,
         "change": value(a) if b < a else 0.0}
        for a in LEVELS for b in LEVELS if b <= a
    ]  # fmt: skip
    far = [row | {"change": 0.1, "beyond": -1.0, "beyond_se": 0.0} for row in rows]
    return {"steps": 1000, "pictures": 99, "objects": rows, "background": rows,
            "controls": dict.fromkeys(("shifted", "foreign", "strange"), far)}  # fmt: skip


def test_where_it_crosses_zero():
    claim = judge(_map(lambda t: -0.1 if t > 700 else 0.3))
    above, below = (t for t in zip(LEVELS, LEVELS[1:]) if t[0] > 700 >= t[1]).__next__()
    assert below < claim.zero < above
    assert claim.high.change.high < 0 < claim.cost.change.low
    assert judge(_map(lambda t: -0.1)).zero is None
    assert "Never above zero." in sentence(_map(lambda t: -0.1))
    assert "No help that ends" in sentence(_map(lambda t: 0.1))


def test_the_path_is_the_clock_s(related):
    """A pixel that is object all along, by the closed form of the clock: d = (n - i)(1 + k i/n)."""
    for k in (0.3, 0.9, 1.0):
        for i in range(1, 20):
            background = 999 * (1 - i / 20)
            slow = background * (1 + k * i / 20)
            assert background_on_path(slow, k, 1000) == pytest.approx(background, abs=1e-6)
    assert background_on_path(500, 0, 1000) == 500


def test_students_t():
    stats = pytest.importorskip("scipy.stats")
    for freedom in (1, 2, 3, 4, 7, 31, 95, 1000):
        assert student(freedom) == pytest.approx(stats.t.ppf(0.975, freedom), rel=0.011)
