"""StoreGate: sample tables for machine learning, over a lazy, chunked array engine.

The public names are found on first use: importing the package (as ``storegate --help`` does) brings in none
of numpy, zarr, xarray and dask.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from storegate.display.text import explain
    from storegate.gate import StoreGate
    from storegate.parsing.iterators import samples
    from storegate_engine import errors

__all__ = ["StoreGate", "__version__", "errors", "explain", "samples"]

__version__ = "0.1.0"


def __getattr__(name: str) -> object:
    """Import a public name when it is first asked for (PEP 562)."""
    value: object
    if name == "StoreGate":
        value = import_module("storegate.gate").StoreGate
    elif name == "explain":
        value = import_module("storegate.display.text").explain
    elif name == "samples":
        value = import_module("storegate.parsing.iterators").samples
    elif name == "errors":
        value = import_module("storegate_engine.errors")
    else:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    """Return the public names, those not imported yet among them."""
    return sorted({*globals(), *__all__})
