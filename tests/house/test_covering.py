"""The choice that is made of a product of cases: all that is to meet does, and the choice is small."""

import itertools
from types import SimpleNamespace

import pytest
from covering import covering, left_out

CELLS, ESTIMATORS, CHECKS = "abcdefg", "uvwxyz", (1, 2, 3, 4, 5)
PRODUCT = list(itertools.product(CELLS, ESTIMATORS, CHECKS))


def meetings(cases, together):
    return {pair for case in cases for pair in itertools.combinations(enumerate(case), together)}


@pytest.mark.parametrize("cases", [PRODUCT, [case for case in PRODUCT if case[0] != "a" or case[1] == "z"]])
def test_any_two_that_can_meet_do_in_few_cases(cases):
    chosen = [cases[i] for i in covering(cases, 2)]
    assert meetings(chosen, 2) == meetings(cases, 2)
    assert len(chosen) <= 1.2 * len(CELLS) * len(ESTIMATORS)


def test_any_value_occurs_in_as_many_cases_as_the_longest_axis_has():
    chosen = [PRODUCT[i] for i in covering(PRODUCT, 1)]
    assert meetings(chosen, 1) == meetings(PRODUCT, 1)
    assert len(chosen) == len(CELLS)


def test_of_nothing_nothing_is_chosen():
    assert covering([], 2) == []


def item(check, marks, **params):
    """A test as pytest collects it."""
    return SimpleNamespace(
        nodeid=f"test_it.py::{check}[some]",
        path="test_it.py",
        callspec=SimpleNamespace(params=params),
        get_closest_marker=marks.get,
    )


def product(*axes, core=None, **settings):
    return {"product": pytest.mark.product(*axes, **settings).mark, "core": core}


def test_a_test_without_the_mark_runs_in_every_case():
    assert left_out([item("test_a", {}, cell=cell) for cell in CELLS]) == []


def test_each_case_of_another_parameter_is_a_product_by_itself():
    marks = product("cell", "name")
    bad = [float("nan"), {}]
    items = [item("test_a", marks, cell=c, name=n, bad=b) for c in "ab" for n in "xy" for b in bad]
    kept = [i.callspec.params for i in items if i not in left_out(items)]
    assert len(kept) == 4
    assert meetings([(p["cell"], p["name"]) for p in kept if p["bad"] == {}], 1) == meetings(["ax", "by"], 1)


def test_the_tests_of_a_file_are_an_axis():
    marks = product("subject", "check", together=2)
    items = [item(f"test_{n}", marks, subject=(c, e)) for c in CELLS for e in ESTIMATORS for n in CHECKS]
    kept = [i for i in items if i not in left_out(items)]
    cases = [(*i.callspec.params["subject"], i.nodeid) for i in kept]
    assert meetings(cases, 2) == meetings([(*i.callspec.params["subject"], i.nodeid) for i in items], 2)
    assert len(kept) < len(items) / 4


def test_a_choice_by_hand_is_kept_to():
    choice = [("a", "z"), ("b", "u")]
    items = [item("test_a", product("cell", "name", choice=choice), cell=c, name=n) for c in CELLS for n in ESTIMATORS]
    left = left_out(items)
    assert [tuple(i.callspec.params.values()) for i in items if i not in left] == choice


def test_the_quick_tier_keeps_its_cases():
    items = [
        item("test_a", product("cell", core=True if c == "g" else None), cell=(c, n)) for c in CELLS for n in CELLS
    ]
    core = [i for i in items if i.callspec.params["cell"][0] == "g"]
    assert len(core) == len(CELLS)
    assert not [i for i in core if i in left_out(items)]
