"""Optional packages: imported where they are used. If one is missing, the error names the extra that installs it."""

from importlib import import_module
from typing import Any

from .errors import UserError


class MissingExtra(UserError, ImportError):
    """A package is not installed. The text says which extra of onward installs it."""


def needed(module: str, extra: str) -> Any:
    """The module, which the extra `onward[extra]` installs. Raises `MissingExtra` if it is not installed.

    >>> needed("json", "export").loads("1")
    1
    >>> needed("no_such_package", "export")
    Traceback (most recent call last):
        ...
    onward.support.extras.MissingExtra: no_such_package is not installed; it comes with: pip install 'onward[export]'.
    """
    try:
        return import_module(module)
    except ModuleNotFoundError as error:
        raise MissingExtra(f"{error.name} is not installed; it comes with: pip install 'onward[{extra}]'.") from None
