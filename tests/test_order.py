"""Objects in order: `bike > shark`, what it means and what it does to the curvatures."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from asyndm.core.order import depths
from asyndm.core.settings import SettingsError
from asyndm.core.words import ObjectWord, read_expression

NAMES = ("ant", "bike", "cat", "dog", "elk", "fox")


def ks(text: str, general: float = 0.6) -> dict[str, float]:
    return {word.text: word.k(general) for word in read_expression(text).objects}


@pytest.mark.parametrize(
    "text, expected",
    [
        ("bike > shark", {"bike": 0.3, "shark": 0.6}),
        ("bike>shark", {"bike": 0.3, "shark": 0.6}),
        ("bike -> shark", {"bike": 0.3, "shark": 0.6}),
        ("bike → shark", {"bike": 0.3, "shark": 0.6}),
        ("bike ＞ shark", {"bike": 0.3, "shark": 0.6}),
        ("自行车＞鲨鱼", {"自行车": 0.3, "鲨鱼": 0.6}),
        ("(bike > shark)", {"bike": 0.3, "shark": 0.6}),
        ("cat > dog > elk", {"cat": 0.2, "dog": 0.4, "elk": 0.6}),
        # What is in no order has all of it, and a chain does not look at another.
        ("cat > dog > elk, fox", {"cat": 0.2, "dog": 0.4, "elk": 0.6, "fox": 0.6}),
        (
            "cat > dog > elk; ant > fox",
            {"cat": 0.2, "dog": 0.4, "elk": 0.6, "ant": 0.3, "fox": 0.6},
        ),
        # The longest way counts; two ways part and meet again.
        ("ant > cat, ant > bike > cat", {"ant": 0.2, "cat": 0.6, "bike": 0.4}),
        ("ant > bike, ant > cat, bike > dog, cat > dog", dict(ant=0.2, bike=0.4, cat=0.4, dog=0.6)),
        ("cat and dog > elk", {"cat": 0.3, "dog": 0.3, "elk": 0.6}),
        # A number wins, wherever it stands.
        ("bike:0.1 > shark", {"bike": 0.1, "shark": 0.6}),
        ("bike > shark:0.9", {"bike": 0.3, "shark": 0.9}),
        ("bike:0.1, bike > shark", {"bike": 0.1, "shark": 0.6}),
        ("bike > shark, Bike:0.1", {"bike": 0.1, "shark": 0.6}),
        ("bike:0 > shark:0,8", {"bike": 0.0, "shark": 0.8}),
        # Whoever is taken out leaves no order behind.
        ("bike > shark, -bike", {"shark": 0.6}),
        ("cat > -dog > elk", {"cat": 0.3, "elk": 0.6}),
        # Names that only look like it.
        ("cat >_<", {"cat >_<": 0.6}),
        ("cat > <", {"cat > <": 0.6}),
    ],
)
def test_what_an_order_means(text, expected):
    assert ks(text) == pytest.approx(expected)


@pytest.mark.parametrize("text", ["bike >", "> bike", "shark, bike ->"])
def test_an_arrow_that_lacks_an_object_is_one_line(text):
    said = read_expression(text)
    assert said.order == () and "bike" in [word.text for word in said.objects]
    assert len(said.notes) == 1 and "lacks an object" in said.notes[0]


@pytest.mark.parametrize(
    "text, said",
    [
        ("bike > shark > bike", "bike > shark > bike is a circle"),
        ("bike > bike", "bike > bike is a circle"),
        ("cat > dog, dog > elk, elk > Cat", "is a circle"),
        ("a1 > b1 > c1 > d1 > e1 > f1 > a1", "is a circle"),
        ("bike:0.1 > shark, bike:0.2 > cat", "'bike' has two curvatures, 0.1 and 0.2"),
    ],
)
def test_what_cannot_be_is_one_line(text, said):
    with pytest.raises(SettingsError) as refused:
        read_expression(text)
    assert said in str(refused.value) and "\n" not in str(refused.value)
    assert len(str(refused.value)) < 160


def test_without_an_order_nothing_is_new():
    said = read_expression("shark:0.7, bike, shark, dog")
    assert said.objects == tuple(
        ObjectWord(*one) for one in (("shark", 0.7), ("bike",), ("shark",), ("dog",))
    )
    assert said.order == ()


EDGES = st.sets(
    st.sampled_from([(a, b) for a, b in itertools.permutations(NAMES, 2) if a < b]), min_size=1
)


@settings(max_examples=150, deadline=None)
@given(EDGES, st.permutations(NAMES), st.floats(0.05, 1))
def test_whoever_waits_is_slower_and_the_last_has_all(edges, renamed, general):
    """Any graph without a circle, under any names, in any order of writing."""
    name = dict(zip(NAMES, renamed))
    edges = sorted((name[a], name[b]) for a, b in edges)
    k = ks(", ".join(f"{a} > {b}" for a, b in edges), general)
    assert set(k) == {one for edge in edges for one in edge}
    assert all(0 < k[a] < k[b] <= general for a, b in edges)

    def longest(to):  # independently, by walking every way
        return 1 + max((longest(a) for a, b in edges if b == to), default=0)

    assert depths(edges) == {one: longest(one) for one in k}
    for one in k:
        together = {one}
        while grown := {x for edge in edges if together & set(edge) for x in edge} - together:
            together |= grown
        assert k[one] == pytest.approx(general * longest(one) / max(map(longest, together)))
