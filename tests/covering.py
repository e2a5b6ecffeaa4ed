"""Of a product of many cases, a few in which all that is to meet still meets: what `--every-pair` does without."""

import itertools
from collections import Counter, defaultdict
from collections.abc import Hashable, Sequence
from types import SimpleNamespace

NO_PARAMETERS = SimpleNamespace(params={})


def covering(cases: Sequence[tuple[Hashable, ...]], together: int) -> list[int]:
    """The positions of a few of these cases: any `together` values that meet in a case meet in a chosen one.

    A case has one value for each axis of the product. With `together=1`, every value of each axis occurs; with
    `together=2`, every value of one axis meets every value of each other axis, as far as the cases allow. Of the cases
    in which something meets, that one is taken that brings most that is new; of equals, the one whose values were taken
    least often; of those, the first. So the choice is always the same, and spread evenly.
    """
    meetings = [list(itertools.combinations(enumerate(case), together)) for case in cases]
    places = defaultdict(list)
    for position, those in enumerate(meetings):
        for meeting in those:
            places[meeting].append(position)
    taken, met, chosen = Counter(), set(), set()

    def gain(position):
        return len(set(meetings[position]) - met), -sum(taken[value] for value in enumerate(cases[position]))

    for meeting, there in places.items():
        if meeting not in met:
            best = max(there, key=gain)
            chosen.add(best)
            met.update(meetings[best])
            taken.update(enumerate(cases[best]))
    return sorted(chosen)


def left_out(items) -> list:
    """The tests that do not run without `--every-pair`: those of a product that are not in its covering.

    `@pytest.mark.product("cell", "estimator")` makes a test the product of these parameters. The axis `"check"` is the
    test itself, with its other parameters: the product is then that of all tests of the file with the same mark. A file
    may be marked as a whole; the mark is then for those of its tests that have the parameters. A parameter that is a
    tuple is several axes. `choice=` names the cases to run. The quick tier, `make check`, has all the cases that it
    names.
    """
    products = {}
    for item in items:
        mark, parameters = item.get_closest_marker("product"), getattr(item, "callspec", NO_PARAMETERS).params
        if mark is not None and parameters.keys() >= set(mark.args) - {"check"}:
            others = [_known(value) for name, value in parameters.items() if name not in mark.args]
            check = (item.nodeid.partition("[")[0], *others)
            case = [part for axis in mark.args if axis != "check" for part in _parts(parameters[axis])]
            group, case = (item.path, (*case, check)) if "check" in mark.args else (check, tuple(case))
            products.setdefault((group, mark.args), (mark.kwargs, []))[1].append((item, case))
    missing = []
    for settings, product in products.values():
        cases = [case for _, case in product]
        chosen = settings.get("choice") or [cases[i] for i in covering(cases, settings.get("together", 1))]
        missing += [item for item, case in product if case not in chosen and item.get_closest_marker("core") is None]
    return missing


def _parts(value):
    return map(_known, value if isinstance(value, tuple) else [value])


def _known(value):
    """A value by itself, or which object it is: not every parameter can be hashed and compared."""
    return value if isinstance(value, str | int | float) else id(value)
