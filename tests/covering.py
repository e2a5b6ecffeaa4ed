"""Of a product of many cases, a few in which all that is to meet still meets: what `--every-pair` does without."""

import itertools
from collections.abc import Hashable, Sequence


def covering(cases: Sequence[tuple[Hashable, ...]], together: int) -> list[int]:
    """The positions of a few of these cases: any `together` values that meet in a case meet in a chosen one.

    A case has one value for each axis of the product. With `together=1`, every value of each axis occurs; with
    `together=2`, every value of one axis meets every value of each other axis, as far as the cases allow. Cases that
    bring most that is new are taken first, and of equals the earliest. So the choice is always the same.
    """
    meetings = [set(itertools.combinations(enumerate(case), together)) for case in cases]
    missing, chosen = set().union(*meetings), []
    for new in range(max(map(len, meetings), default=0), 0, -1):
        for position, meeting in enumerate(meetings):
            if len(meeting & missing) >= new:
                missing -= meeting
                chosen.append(position)
    return sorted(chosen)


def left_out(items) -> list:
    """The tests that do not run without `--every-pair`: those of a product that are not in its covering.

    `@pytest.mark.product("cell", "estimator")` makes a test the product of these parameters. The axis `"check"` is the
    test itself, with its other parameters: the product is then that of all tests of the file with the same mark. A
    parameter that is a tuple is several axes. `choice=` names the cases to run. The quick tier, `make check`, has all
    the cases that it names.
    """
    products = {}
    for item in items:
        mark = item.get_closest_marker("product")
        if mark is not None:
            others = [_known(value) for name, value in item.callspec.params.items() if name not in mark.args]
            check = (item.nodeid.partition("[")[0], *others)
            case = [part for axis in mark.args if axis != "check" for part in _parts(item.callspec.params[axis])]
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
