"""StoreGate: sample tables for machine learning, over a lazy, chunked array engine.

What its files and folders know; each imports only from those below it:

    __main__    ``python -m storegate``
    cli         the command line
    demo        its demonstration
    adapters    streams in the shapes that training frameworks want
    gate        the class StoreGate: the documented interface
    types       what annotations of a user's own functions need
    views       ``gate["train"]["x"]``
    explorable  what views have for people who look at data
    session     what a gate holds and its views share: backend, mode and repositories
    versions    the past of a table, as records that print as tables
    edits       new tables from old, and the calls that store them
    exports     rows as tables of other libraries
    statistics  what the rows of variables come to
    batches     what ``batches()`` is asked for, as a stream
    reading     names and selections as rows, dask arrays or Datasets
    contents    what a table has: names, shapes and sizes
    display     text, HTML and plans, for people to read
    parsing     what callers give, as typed values
    callers     where in the caller's program a warning belongs

The public names are found on first use: importing the package (as ``storegate --help`` does) brings in none
of numpy, zarr, xarray and dask.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from storegate.display import explain
    from storegate.gate import StoreGate
    from storegate.parsing import samples
    from storegate_engine import errors

__all__ = ["StoreGate", "__version__", "errors", "explain", "samples"]

__version__ = "0.1.0"


def __getattr__(name: str) -> object:
    """Import a public name when it is first asked for (PEP 562)."""
    value: object
    if name == "StoreGate":
        value = import_module("storegate.gate").StoreGate
    elif name == "explain":
        value = import_module("storegate.display").explain
    elif name == "samples":
        value = import_module("storegate.parsing").samples
    elif name == "errors":
        value = import_module("storegate_engine.errors")
    else:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    """Return the public names, those not imported yet among them."""
    return sorted({*globals(), *__all__})
