"""JSON: a table as the JSON of a manifest, and back; the only file that knows the stored format of a table."""

from __future__ import annotations

import json
import operator
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, TypeAlias

import numpy as np

from storegate_engine import orders
from storegate_engine.arrays import (
    ConstantArray,
    ForeignArray,
    RaggedArray,
    RowArray,
    StoredArray,
    StoredIndex,
    require_within_limits,
)
from storegate_engine.budget import Layout
from storegate_engine.dtypes import dtype_from_text, dtype_to_text
from storegate_engine.errors import CorruptStoreError, StoreGateError, shown
from storegate_engine.identifiers import hex_id_of
from storegate_engine.locations import Location
from storegate_engine.names import validate_name
from storegate_engine.orders import RowIndex, RowOrder
from storegate_engine.table.attributes import attributes_from_json, attributes_to_json
from storegate_engine.table.description import PLAIN, Description
from storegate_engine.table.pieces import Piece
from storegate_engine.table.scalings import scaling_from_json
from storegate_engine.table.table import PHASES, Table
from storegate_engine.table.transforms import ArgMax, Cast, OneHot, Transform, fold
from storegate_engine.table.variable import Dealt, Variable, kind_of
from storegate_engine.temporaries import Temporary, temporary_at

__all__ = [
    "foreign_arrays",
    "is_stored",
    "key_of",
    "stored_arrays",
    "table_from_state",
    "table_to_state",
    "temporaries_of",
    "token_of",
]


def table_to_state(table: Table) -> dict[str, Any]:
    """Return the JSON of a table for a manifest; all its rows must be stored."""
    arrays: dict[RowArray, int] = {}
    phases = {phase: [_described(variable, arrays) for variable in table[phase].values()] for phase in PHASES}
    shared = [_described(variable, arrays) for variable in table.shared.values()]
    attrs = {phase: attributes_to_json(attrs) for phase, attrs in table.attrs.items()}
    return {
        "compiled": table.compiled,
        "arrays": [array.to_json() for array in arrays],
        "phases": phases,
        **({"shared": shared} if shared else {}),
        **({"attrs": attrs} if attrs else {}),
    }


def _array_from_state(
    document: Any, segments: Location, before: Known, known: Known, references: Sequence[str]
) -> RowArray:
    if "constant" in document:
        return ConstantArray.from_json(document)
    if "ragged" in document:
        parts = [_array_from_state(part, segments, before, known, references) for part in document["ragged"]]
        return RaggedArray.of(parts, document)
    if "foreign" in document:
        files = _stored_from_state(document["files"], segments, {**before, **known}, known)
        return ForeignArray.from_json(document, files, references)
    return _stored_from_state(document, segments, before, known)


Known: TypeAlias = dict[tuple[str, str], tuple[Any, StoredArray]]
"""Arrays by segment and name, with their JSON: most of them are also in the next manifest."""


def _stored_from_state(document: Any, segments: Location, before: Known, known: Known) -> StoredArray:
    key = document["segment"], document["name"]
    found = before.get(key)
    if found is None or found[0] != document:
        found = document, StoredArray.from_json(document, segments)
    known[key] = found
    return found[1]


def _variable_to_state(
    variable: Variable,
    arrays: dict[RowArray, int],
    index_to_json: Callable[[RowIndex], object] = operator.methodcaller("to_json"),
) -> dict[str, Any]:
    """Return the JSON of one variable for a manifest; its arrays are numbered in ``arrays``."""
    pieces = []
    shuffled_by = variable.pieces[0].shuffled_by if len(variable.pieces) == 1 else None
    for piece in variable.pieces:
        assert piece.array.is_stored, "a stored table refers to stored arrays"
        number = arrays.setdefault(piece.array, len(arrays))
        transforms = [transform.to_json() for transform in piece.transforms]
        pieces.append([number, piece.start, piece.stop, transforms])
    updates = [at for at, piece in enumerate(variable.pieces) if piece.is_update]
    return {
        "name": variable.name,
        "dtype": dtype_to_text(variable.dtype),
        "row_shape": list(variable.row_shape),
        "pieces": pieces,
        "order": orders.to_json(variable.order, index_to_json),
        **({"history": [list(dealt) for dealt in variable.history]} if variable.history else {}),
        **({} if shuffled_by is None else {"shuffled_by": shuffled_by}),
        **({"updates": updates} if updates else {}),
    }


def _described(variable: Variable, arrays: dict[RowArray, int]) -> dict[str, Any]:
    """Return the JSON of one variable, with what its rows do not say."""
    about = {"about": variable.about.to_json()} if variable.about != PLAIN else {}
    return {**_variable_to_state(variable, arrays), **about}


def is_stored(variable: Variable) -> bool:
    """Return whether all rows of a variable are in storage, or take no space, so that other processes find them."""
    return all(piece.array.is_stored for piece in variable.pieces)


def temporaries_of(variable: Variable) -> tuple[Temporary, ...]:
    """Return the temporary directories that hold rows of a variable, so that later readers can keep them alive."""
    locations = (part.location for piece in variable.pieces for part in piece.arrays)
    urls = {location.url for location in locations if location is not None}
    found = (temporary_at(url) for url in sorted(urls))
    return tuple(temporary for temporary in found if temporary is not None)


def token_of(variable: Variable, *details: object) -> str:
    """Return a name for the content of a stored variable in its place: equal if the same rows are read from there.

    The indexes of its order may be in memory.
    """
    arrays: dict[RowArray, int] = {}
    state = _variable_to_state(variable, arrays, operator.methodcaller("token"))
    places = [repr(array) for array in (*arrays, *_indices(variable.order))]
    content = json.dumps([state, places, [repr(detail) for detail in details]])
    return hex_id_of(content.encode())


MAX_TRANSFORMS = 1_000
"""Most transforms of one piece."""
MAX_ALL_TRANSFORMS = 20_000
"""Most transforms of all pieces of a table."""


def table_from_state(
    state: Any,
    segments: Location,
    where: object = "",
    known: Known | None = None,
    references: Sequence[str] = (),
) -> Table:
    """Return the table of a manifest (``where`` in errors); its arrays lie below ``segments``.

    Arrays in ``known`` are reused; afterwards it holds those of this manifest. Files of other formats that it refers to
    are opened only below ``references``.

    Raises
    ------
    CorruptStoreError
        The state was not made by :func:`table_to_state`.
    """
    if state is None:
        return Table()
    try:
        known = {} if known is None else known
        before = dict(known)
        known.clear()
        arrays = [_array_from_state(document, segments, before, known, references) for document in state["arrays"]]
        shared = state.get("shared", [])
        documents = [*(document for phase in PHASES for document in state["phases"][phase]), *shared]
        pieces = [piece for document in documents for piece in document["pieces"]]
        if sum(len(piece[3]) for piece in pieces) > MAX_ALL_TRANSFORMS:
            raise CorruptStoreError(f"it has more than {MAX_ALL_TRANSFORMS} transforms")
        table = Table()
        for phase in PHASES:
            variables = [_variable_from_state(document, arrays, segments, 1) for document in state["phases"][phase]]
            table = table.with_variables(phase, variables)
            table = table.with_attrs(phase, attributes_from_json(state.get("attrs", {}).get(phase, [])))
        table = table.with_shared(_shared_from_state(document, arrays, segments) for document in shared)
        return table.with_compiled() if state["compiled"] is True else table
    except (
        ArithmeticError, AttributeError, LookupError, MemoryError, OSError, RecursionError, TypeError, ValueError
    ) as err:  # fmt: skip
        found = str(err) if isinstance(err, StoreGateError) else repr(err)
        raise CorruptStoreError(f"manifest {where} describes no table: {found}") from err


def transform_from_json(obj: object) -> Transform:
    """Return the transform from its JSON, which is not trusted.

    Raises
    ------
    CorruptStoreError
        It is not a transform that this version knows.
    """
    if not (isinstance(obj, list) and len(obj) == 2):
        raise CorruptStoreError(f"a stored transform is not understood: {shown(obj)}")
    name, value = obj
    try:
        if name == "cast" and isinstance(value, str):
            return Cast(dtype_from_text(value, "cast"))
        if name == "onehot" and type(value) is int:
            return OneHot(value)
        if name == "argmax" and type(value) is int:
            return ArgMax(value)
        scaling = scaling_from_json(name, value) if isinstance(name, str) and isinstance(value, list) else None
        if scaling is not None:
            return scaling
    except (TypeError, ValueError, CorruptStoreError) as err:
        raise CorruptStoreError(f"a stored transform is wrong: {err}: {shown(obj)}") from err
    raise CorruptStoreError(f"a stored transform is not understood: {shown(obj)}")


def _transforms(array: RowArray, documents: Any) -> tuple[Transform, ...]:
    """Return the transforms of a piece, after a check that none makes rows too large to handle."""
    if len(documents) > MAX_TRANSFORMS:
        raise CorruptStoreError(f"a piece has {len(documents)} transforms, and at most {MAX_TRANSFORMS} are read")
    transforms = tuple(transform_from_json(item) for item in documents)
    dtype, row_shape = array.dtype, array.row_shape
    for transform in transforms:
        dtype, row_shape = fold([transform], dtype, row_shape)
        require_within_limits(dtype, row_shape, array.n_rows, Layout(1, 1))
    return transforms


def _index_from_state(document: Any, segments: Location) -> StoredIndex:
    array = StoredArray.from_json(document, segments)
    if array.dtype not in (np.uint32, np.int64) or array.row_shape:
        raise CorruptStoreError(f"an index has rows of {array.dtype} {array.row_shape}, not one integer each")
    return StoredIndex(array)


def _variable_from_state(document: Any, arrays: list[RowArray], segments: Location, n_sample_axes: int) -> Variable:
    pieces = []
    for number, start, stop, transforms in document["pieces"]:
        if any(type(n) is not int for n in (number, start, stop)):
            raise CorruptStoreError(f"a piece is {shown([number, start, stop])}, not three integers")
        array = arrays[number]
        if number < 0 or not 0 <= start <= stop <= array.n_rows:
            raise CorruptStoreError(f"a piece {start}..{stop} of an array of {array.n_rows} rows")
        pieces.append(Piece(array, start, stop, _transforms(array, transforms)))
    if (shuffled_by := document.get("shuffled_by")) is not None:
        if type(shuffled_by) is not int or shuffled_by < 0 or len(pieces) != 1:
            raise CorruptStoreError(f"{len(pieces)} pieces are stored as shuffled by {shown(shuffled_by)}")
        pieces = [replace(pieces[0], shuffled_by=shuffled_by)]
    for at in document.get("updates", []):
        if type(at) is not int or not 0 <= at < len(pieces):
            raise CorruptStoreError(f"piece {shown(at)} of {len(pieces)} is stored as an update")
        pieces[at] = replace(pieces[at], is_update=True)
    if any(type(size) is not int for size in document["row_shape"]):
        raise CorruptStoreError(f"a row has the shape {shown(document['row_shape'])}")
    variable = Variable(
        validate_name(document["name"]),
        dtype_from_text(document["dtype"]),
        tuple(document["row_shape"]),
        tuple(pieces),
        orders.from_json(document["order"], lambda item: _index_from_state(item, segments)),
        tuple(map(_dealt_from_state, document.get("history", []))),
        Description.from_json(document["about"]) if "about" in document else PLAIN,
    )
    if (dims := variable.about.dims) is not None and len(dims) != n_sample_axes + len(variable.row_shape):
        raise CorruptStoreError(f"variable {variable.name!r} has the dimensions {dims}, and rows {variable.row_shape}")
    lowest, highest = variable.order.bounds
    if len(variable) and not 0 <= lowest <= highest <= variable.offsets[-1]:
        raise CorruptStoreError(f"variable {variable.name!r} refers to rows that no piece has")
    for piece in pieces:
        is_alike = kind_of(piece.array) == variable.kind
        if not is_alike or piece.dtype != variable.dtype or piece.row_shape != variable.row_shape:
            raise CorruptStoreError(f"a piece of variable {variable.name!r} has another dtype or shape")
    return variable


def _shared_from_state(document: Any, arrays: list[RowArray], segments: Location) -> Variable:
    variable = _variable_from_state(document, arrays, segments, 0)
    if len(variable) != 1 or variable.about.dims is None:
        raise CorruptStoreError(f"{variable.name!r}, which has no sample axis, is described by {shown(document)}")
    return variable


def _dealt_from_state(document: Any) -> Dealt:
    if not isinstance(document, list) or any(type(n) is not int or n < 0 for n in document):
        raise CorruptStoreError(f"rows that were shuffled are {shown(document)}, not integers")
    return Dealt(*document)


def key_of(variable: Variable) -> str:
    """Return a name for the content of a stored variable: equal in every version, and wherever the store is.

    The indexes of its order may be in memory.
    """
    arrays: dict[RowArray, int] = {}
    state = _variable_to_state(variable, arrays, operator.methodcaller("token"))
    return hex_id_of(json.dumps([state, [array.to_json() for array in arrays]]).encode())


def stored_arrays(table: Table) -> dict[StoredArray, list[str]]:
    """Return all stored arrays of a table, those of its orders too, with the variables that use them."""
    found: dict[StoredArray, list[str]] = {}
    users = [*((f"{phase}/{variable.name}", variable) for phase, variable in table), *table.shared.items()]
    for user, variable in users:
        pieces = [part for piece in variable.pieces for part in piece.arrays]
        arrays = [array for part in pieces if isinstance(array := part.sources or part, StoredArray)]
        for array in dict.fromkeys([*arrays, *_indices(variable.order)]):
            found.setdefault(array, []).append(user)
    return found


def foreign_arrays(table: Table) -> dict[RowArray, list[str]]:
    """Return all arrays of files of other programs, with the variables that use them."""
    found: dict[RowArray, list[str]] = {}
    for phase, variable in table:
        for array in dict.fromkeys(piece.array for piece in variable.pieces):
            if array.sources is not None:
                found.setdefault(array, []).append(f"{phase}/{variable.name}")
    return found


def _indices(order: RowOrder) -> list[StoredArray]:
    return [index.array for index in order.indices() if isinstance(index, StoredIndex)]
