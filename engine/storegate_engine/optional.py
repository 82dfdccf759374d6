"""Optional: packages of extras, imported when they are needed; knows nothing of what they are for."""

from __future__ import annotations

from importlib import import_module
from typing import Any

__all__ = ["require_package"]


def require_package(package: str, extra: str, what: str) -> Any:
    """Return an imported package.

    Parameters
    ----------
    package : str
        Its name.
    extra : str
        The extra of StoreGate that installs it.
    what : str
        What needs it, for the message.

    Raises
    ------
    ImportError
        The package is not installed; the message names the extra that installs it.
    """
    try:
        return import_module(package)
    except ImportError as err:
        raise type(err)(
            f'{what} needs {package}, which cannot be imported ({err}); python -m pip install "storegate[{extra}]"',
            name=package,
        ) from err
