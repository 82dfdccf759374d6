"""StoreGate: sample tables for machine learning, over a lazy, chunked array engine.

What its files and folders know; each imports only from those below it:

    __main__    ``python -m storegate``
    cli         the command line
    commands    what it does with one data_id of a store
    store_commands  what it does with every data_id
    backend     stores as files that xarray opens
    demo        its demonstration
    adapters    streams in the shapes that training frameworks want
    gate        the class StoreGate: the documented interface
    types       the public types for annotations
    choosing    methods of a gate that change which rows its phases have
    scaling     methods of a gate that scale values by what was fitted to one phase
    views       ``gate["train"]["x"]``
    accessor    ``ds.storegate`` of Datasets: plans, batches, a way into a store
    explorable  attributes, first rows, statistics and exports of views
    windows     pairs of adjacent rows, as a lazy sequence
    foldable    views of folds, for cross-validation
    session     the state that a gate and its views share: backend, mode and repositories
    versions    the history of a table, as records that print as tables
    leaks       rows and groups that several phases have
    edits       new tables from old, and the calls that store them
    readers     files of other formats as tables that ``add_data`` takes
    files       a phase as a file of another format
    report      what a table holds, on one page
    exports     rows as tables of other libraries
    scans       the rows of phases that share stored rows, read once
    lists       rows of various lengths as groups of zarr that other software reads
    statistics  statistics of the rows of variables
    batches     the options of ``batches()`` as a stream
    reading     names and selections as rows, dask arrays or Datasets
    contents    names, shapes and sizes of a table
    display     text, HTML and plans, for people to read
    plain       facts as JSON has them
    parsing     arguments of callers as typed values
    callers     the line of the user's program that a warning should name

The public names are imported on first use: importing the package (as ``storegate --help`` does) does not import
numpy, zarr, xarray or dask.
"""

from __future__ import annotations

import sys
from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from storegate.display import explain
    from storegate.gate import StoreGate
    from storegate.parsing import samples
    from storegate_engine import errors
    from storegate_engine.ragged import Ragged, pad

    __version__: str

__all__ = ["Ragged", "StoreGate", "__version__", "errors", "explain", "pad", "samples"]


def __getattr__(name: str) -> object:
    """Import a public name on first use (PEP 562)."""
    value: object
    if name == "StoreGate":
        value = import_module("storegate.gate").StoreGate
    elif name == "explain":
        value = import_module("storegate.display").explain
    elif name == "samples":
        value = import_module("storegate.parsing").samples
    elif name in ("Ragged", "pad"):
        value = getattr(import_module("storegate_engine.ragged"), name)
    elif name == "errors":
        value = import_module("storegate_engine.errors")
    elif name == "__version__":
        metadata = import_module("importlib.metadata")
        try:
            value = metadata.version("storegate")
        except metadata.PackageNotFoundError:  # on the path, but not installed
            value = "0+unknown"
    else:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    """Return the public names, including those not imported yet."""
    return sorted({*globals(), *__all__})


if "xarray" in sys.modules:  # otherwise Datasets have ds.storegate once a gate has made one, or xarray opened any file
    import_module("storegate.accessor")
