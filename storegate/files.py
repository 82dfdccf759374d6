"""Files: a phase as a file of another format, written block by block within the budget, whole or not at all."""

from __future__ import annotations

import contextlib
import os
import shutil
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias, cast, get_args

import numpy as np
import xarray as xr

from storegate.exports import arrow_reader
from storegate.lists import write_lists
from storegate.parsing import ExportFormat
from storegate.reading import blocks_in_order
from storegate_engine.dtypes import TEXT
from storegate_engine.errors import (
    ArgumentError,
    ArgumentTypeError,
    DtypeError,
    StoreExistsError,
    StoreGateError,
    near_match,
    shown,
)
from storegate_engine.exchange import task_nbytes
from storegate_engine.optional import require_package
from storegate_engine.table import Variable

__all__ = ["Exported", "export", "format_of"]

Array: TypeAlias = np.ndarray[Any, Any]
_SUFFIXES: Mapping[str, ExportFormat] = {
    ".zarr": "zarr",
    ".nc": "netcdf",
    ".nc4": "netcdf",
    ".parquet": "parquet",
    ".pq": "parquet",
    ".h5": "hdf5",
    ".hdf5": "hdf5",
}


@dataclass(frozen=True, slots=True, eq=False)
class Exported:
    """What is exported: a phase, as variables and as a lazy Dataset."""

    variables: Sequence[Variable]
    dataset: xr.Dataset
    budget_nbytes: int


def format_of(path: object, form: str | None) -> tuple[Path, ExportFormat]:
    """Return the path and the format, by default the one that its suffix names.

    Raises
    ------
    ArgumentError
        There is no such format, or the suffix names none, or the path is a URL.
    StoreExistsError
        There is something at the path already.
    """
    if not isinstance(path, str | os.PathLike):
        raise ArgumentTypeError(f"export takes a path, found {shown(path)}")
    text = os.fspath(path)
    if not isinstance(text, str) or "://" in text:
        raise ArgumentError(f"export writes to a local path, found {shown(path)}; export there, then copy")
    known = get_args(ExportFormat)
    if form is not None and form not in known:
        raise ArgumentError(f"no format {form!r}{near_match(str(form), known)} (formats: {', '.join(known)})")
    target = Path(text).expanduser()
    found = form or _SUFFIXES.get(target.suffix.lower())
    if found is None:
        raise ArgumentError(f"the suffix of {text!r} names no format; give format=, one of {', '.join(known)}")
    if target.exists() or target.is_symlink():
        raise StoreExistsError(f"there is something at {text} already; remove it, or choose another path")
    return target, cast("ExportFormat", found)


def export(path: Path, form: ExportFormat, exported: Exported) -> None:
    """Write a phase; a file that is not complete has another name, and is removed if writing fails."""
    writers: Mapping[str, Callable[[Path, Exported], None]] = {
        "zarr": _to_zarr,
        "netcdf": _to_netcdf,
        "parquet": _to_parquet,
        "hdf5": _to_hdf5,
    }
    with _complete(path) as partial:
        try:
            writers[form](partial, exported)
        except StoreGateError:
            raise
        except (ValueError, TypeError, OverflowError) as err:  # what a library has no place for
            raise DtypeError(
                f"these rows cannot be written as {form}: {err}; leave out what is meant, export to another format, or "
                "convert it first"
            ) from err


@contextlib.contextmanager
def _complete(path: Path) -> Iterator[Path]:
    partial = path.with_name(f"{path.name}.{uuid.uuid4().hex}.partial")
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        yield partial
        if path.exists():  # made by another process meanwhile
            raise StoreExistsError(f"there is something at {path} by now; choose another path")
        partial.rename(path)
    except BaseException:
        if partial.is_dir():
            shutil.rmtree(partial, ignore_errors=True)
        else:
            partial.unlink(missing_ok=True)
        raise


def _with_texts(dataset: xr.Dataset, kinds: str, dtype: np.dtype[Any]) -> xr.Dataset:
    """Return a Dataset with texts of some kinds in another dtype."""
    found = {name: array.astype(dtype) for name, array in dataset.variables.items() if array.dtype.kind in kinds}
    coords = {name: array for name, array in found.items() if name in dataset.coords}
    return dataset.assign({name: array for name, array in found.items() if name not in coords}).assign_coords(coords)


_ATTRIBUTES: Mapping[str, tuple[str, str]] = {
    "netcdf": ("iufUS", "NetCDF has texts, numbers and lists of them; export to zarr"),
    "hdf5": ("biufcUS", "HDF5 has texts, numbers and arrays of them; export to zarr"),
    "zarr": ("biufU", "Zarr has texts, numbers, and lists and dicts of them; leave the variable out"),
}
"""The kinds of dtypes that attributes of a format may have, and what to say of others."""


def _attrs(attrs: Mapping[Any, Any], what: str, form: ExportFormat) -> dict[str, Any]:
    """Return attributes as a format takes them.

    Raises
    ------
    DtypeError
        The format has no such attributes.
    """
    _, remedy = _ATTRIBUTES[form]
    for name, value in attrs.items():
        if not (_is_json(value) if form == "zarr" else _is_plain(value, form)):
            raise DtypeError(
                f"attribute {name!r} of {what} is {shown(value)}, and {remedy}, or convert it before it is added"
            )
    # libraries take lists of texts, but no arrays of them
    is_text = {name: getattr(value, "dtype", np.dtype("i1")).kind == "U" for name, value in attrs.items()}
    return {name: value.tolist() if is_text[name] else value for name, value in attrs.items()}


def _is_json(value: Any) -> bool:
    if isinstance(value, dict):
        return all(map(_is_json, value.values()))
    if isinstance(value, list | tuple):
        return all(map(_is_json, value))
    if isinstance(value, np.ndarray | np.generic):
        return value.dtype.kind in _ATTRIBUTES["zarr"][0]
    return value is None or isinstance(value, str | bool | int | float)


def _is_plain(value: Any, form: ExportFormat) -> bool:
    """Return whether an attribute is a value or an array of numbers or texts, as files of HDF5 have them."""
    if isinstance(value, bytes):
        return 0 not in value
    if isinstance(value, str):
        return "\0" not in value
    if value is None or isinstance(value, dict):
        return False
    try:
        array = np.asarray(value)
    except ValueError:  # lists of different lengths
        return False
    if array.dtype.kind == "U":
        texts = value if isinstance(value, list | tuple) else array.reshape(-1).tolist()
        return array.ndim < 2 and all(isinstance(text, str) and "\0" not in text for text in texts)
    is_netcdf = array.ndim < 2 and array.dtype != np.float16
    return array.dtype.kind in _ATTRIBUTES[form][0] and (form == "hdf5" or is_netcdf)


def _to_zarr(path: Path, exported: Exported) -> None:
    lists = [variable for variable in exported.variables if variable.kind != "dense"]
    dataset = exported.dataset.drop_vars([variable.name for variable in lists])
    dataset = _with_texts(dataset, "U", TEXT)  # zarr's format 3 has no text of fixed width yet
    encoding = {
        name: {"chunks": tuple(sizes[0] for sizes in array.chunks)}
        for name, array in dataset.variables.items()
        if array.chunks is not None and array.size
    }
    for what, attrs in {
        "the phase": dataset.attrs,
        **{str(n): of.attrs for n, of in dataset.variables.items()},
    }.items():
        _attrs(attrs, what, "zarr")
    dataset.drop_encoding().to_zarr(path, mode="w-", zarr_format=3, consolidated=False, encoding=encoding)
    for variable in lists:
        write_lists(path, variable, exported.budget_nbytes)


def _to_netcdf(path: Path, exported: Exported) -> None:
    require_package("h5netcdf", "netcdf", "export to NetCDF")
    for of in exported.variables:
        if of.kind != "dense":
            raise DtypeError(
                f"variable {of.name!r} has {of.row_shape_in_words}, which xarray's NetCDF files do not have; export "
                "to zarr, Parquet or HDF5, or leave it out"
            )
    for name, variable in exported.dataset.variables.items():
        if variable.dtype == np.float16:  # the NetCDF library ends the process that reads it
            raise DtypeError(
                f"{str(name)!r} is float16, which NetCDF does not have; cast it first, as in "
                f"gate.astype({str(name)!r}, 'float32'), or export to zarr or hdf5"
            )
    # says that objects are texts, without a look at all of them
    dataset = _with_texts(exported.dataset, "T", np.dtype("O", metadata={"element_type": str})).drop_encoding()
    dataset.attrs = _attrs(dataset.attrs, "the phase", "netcdf")
    for name, variable in dataset.variables.items():
        variable.attrs = _attrs(variable.attrs, str(name), "netcdf")
    dataset.to_netcdf(path, engine="h5netcdf", format="NETCDF4")


def _to_parquet(path: Path, exported: Exported) -> None:
    reader = arrow_reader(exported.variables, exported.budget_nbytes, seconds=False)
    parquet = require_package("pyarrow.parquet", "arrow", "export to Parquet")
    pyarrow = require_package("pyarrow", "arrow", "export to Parquet")
    # a row group is encoded, and then compressed, in memory beside its rows
    group_nbytes = min(ROW_GROUP_NBYTES, task_nbytes(exported.budget_nbytes, 1) // PARQUET_COPIES)
    # dictionaries of numbers that hardly repeat would take tens of megabytes
    repeating = [variable.name for variable in exported.variables if variable.dtype.kind not in "fcmM"]
    with parquet.ParquetWriter(path, reader.schema, use_dictionary=repeating) as writer:
        held: list[Any] = []
        for batch in reader:
            held.append(batch)
            if sum(one.nbytes for one in held) >= group_nbytes:
                writer.write_table(pyarrow.Table.from_batches(held))
                held = []
        writer.write_table(pyarrow.Table.from_batches(held, schema=reader.schema))


ROW_GROUP_NBYTES = 64 * 2**20
"""Most bytes of the rows of a row group."""
PARQUET_COPIES = 4
"""Copies of a row group's rows while it is written."""


def _to_hdf5(path: Path, exported: Exported) -> None:
    h5py = require_package("h5py", "hdf5", "export to HDF5")
    with h5py.File(path, "x") as file:
        for variable in exported.variables:
            if variable.kind == "sparse" or (variable.kind == "ragged" and variable.row_shape):
                raise DtypeError(
                    f"variable {variable.name!r} has {variable.row_shape_in_words}, for which HDF5 has no dataset; "
                    "export to zarr, or leave it out"
                )
            shape = variable.shape
            step = max(1, task_nbytes(exported.budget_nbytes, 1) // max(1, variable.row_nbytes))
            chunks = (min(step, max(1, shape[0]), 2**16), *shape[1:])
            chunking = {} if 0 in shape else {"chunks": chunks}
            made = file.create_dataset(variable.name, shape, _in_hdf5(h5py, variable), **chunking)
            for name, value in _attrs(exported.dataset[variable.name].attrs, variable.name, "hdf5").items():
                made.attrs[name] = value
            lo = 0
            for (rows,) in blocks_in_order([variable], step, exported.budget_nbytes):
                if variable.kind == "ragged":
                    _put_lists(h5py, made, lo, rows)
                else:
                    made[lo : lo + len(rows)] = _values(h5py, rows)
                lo += len(rows)


def _in_hdf5(h5py: Any, variable: Variable) -> Any:
    if variable.kind == "ragged":
        return h5py.vlen_dtype(_in_hdf5(h5py, variable.sources[0]))
    if variable.dtype.kind in "UT":
        return h5py.string_dtype()
    if variable.dtype.kind in "mM":
        return h5py.opaque_dtype(variable.dtype)
    return variable.dtype


def _put_lists(h5py: Any, made: Any, lo: int, rows: Any) -> None:
    """Write lists by the call below h5py's own, which takes lists of equal lengths for one array."""
    objects = np.empty(len(rows), made.dtype)
    for at, row in enumerate(rows):
        objects[at] = _values(h5py, row)
    place = made.id.get_space()
    place.select_hyperslab((lo,), (len(rows),))
    made.id.write(h5py.h5s.create_simple((len(rows),)), place, objects)


def _values(h5py: Any, values: Any) -> Any:
    if values.dtype.kind in "mM":
        return values.astype(h5py.opaque_dtype(values.dtype))
    return values.astype(object).astype(h5py.string_dtype()) if values.dtype.kind in "UT" else values
