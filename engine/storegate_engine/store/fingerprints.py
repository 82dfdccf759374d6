"""Fingerprints: hashes of the rows of variables, from their values in logical order alone.

A fingerprint is the SHA-256 of dtype, shape and values. It does not depend on chunks, codecs, orders, transforms,
backends or paths: equal rows have equal fingerprints, however they were made. Computing one reads every row once, in
logical order; a store keeps the result for every version that has the same variable. With
``storegate.fingerprints``, every commit computes them.
"""

from __future__ import annotations

import hashlib
import json
import warnings
from collections.abc import Mapping

import numpy as np

from storegate_engine.clusters import Capacity
from storegate_engine.dtypes import dtype_to_text
from storegate_engine.encodings import canonical_bytes
from storegate_engine.errors import CorruptStoreError, StoreGateError
from storegate_engine.identifiers import is_hex
from storegate_engine.locations import Location, writing
from storegate_engine.store.repository import Repository
from storegate_engine.store.rewriting import blocks_in_order
from storegate_engine.table import Variable, key_of

__all__ = ["fingerprint", "fingerprint_all", "known_fingerprints"]

_NBYTES = 64
"""Number of hexadecimal digits of a SHA-256."""


def fingerprint(repository: Repository, variable: Variable, capacity: Capacity) -> str:
    """Return the fingerprint of a variable's rows; if it is not known, read them within the memory limit.

    Parameters
    ----------
    repository : Repository
        The variable's repository; a stored one that may be changed keeps the result.
    variable : Variable
        The variable.
    capacity : Capacity
        Memory and threads to read with.
    """
    place = repository.fingerprints
    if place is None:
        return _computed(variable, capacity)
    key = key_of(variable)
    found = _kept(place, key)
    if found is None:
        found = _computed(variable, capacity)
        if repository.writable:
            with writing(place):
                place.write_if_absent(key, found.encode(), sync=repository.durable)
    return found


def fingerprint_all(repository: Repository, capacity: Capacity) -> None:
    """Compute the fingerprints of all variables that have none, so that the version carries them.

    The version is committed already: a fingerprint that cannot be computed, for lack of memory or because rows cannot
    be encoded, is only a warning.
    """
    if repository.fingerprints is None:
        return
    for phase, variable in repository.table:
        try:
            fingerprint(repository, variable, capacity)
        except StoreGateError as err:
            warnings.warn(
                f"version {repository.version} was committed without a fingerprint of {phase}/{variable.name}: {err}",
                UserWarning,
                stacklevel=2,
            )


def known_fingerprints(repository: Repository, variables: Mapping[str, Variable]) -> dict[str, str]:
    """Return the fingerprints that the store has; reads no rows."""
    place = repository.fingerprints
    if place is None:
        return {}
    kept = set(place.children())
    keys = {name: key_of(variable) for name, variable in variables.items()} if kept else {}
    found = {name: _kept(place, key) for name, key in keys.items() if key in kept}
    return {name: text for name, text in found.items() if text is not None}


def _kept(place: Location, key: str) -> str | None:
    content = place.read(key, max_nbytes=_NBYTES)
    if content is None:
        return None
    text = content.decode("ascii", "replace")
    if not is_hex(text, _NBYTES):
        raise CorruptStoreError(f"{place}/{key} is not a fingerprint; delete the file")
    return text


def _computed(variable: Variable, capacity: Capacity) -> str:
    if variable.kind != "dense":
        return _of_lists(variable, capacity)
    header = [dtype_to_text(variable.dtype), len(variable), list(variable.row_shape)]
    digest = hashlib.sha256(json.dumps(header).encode())
    for rows in blocks_in_order(variable, capacity):
        digest.update(canonical_bytes(rows).data)
    return digest.hexdigest()


def _of_lists(variable: Variable, capacity: Capacity) -> str:
    """Return the hash of lengths, items and columns, each hashed by itself: blocks may end anywhere."""
    header = [variable.kind, dtype_to_text(variable.dtype), len(variable), list(variable.row_shape)]
    digests = [hashlib.sha256() for _ in range(4)]
    for rows in blocks_in_order(variable, capacity):
        lo, hi = rows.offsets[0], rows.offsets[-1]
        items, columns = rows.flat, np.empty(0, np.int64)
        if rows.columns is not None:
            columns = rows.columns[lo:hi].astype(np.int64)
        texts = [text.encode() for text in items.tolist()] if items.dtype.kind == "T" else []
        widths = np.fromiter(map(len, texts), np.int64, len(texts))
        values = np.frombuffer(b"".join(texts), "u1") if texts else items
        for digest, part in zip(digests, (rows.lengths, columns, widths, values), strict=True):
            digest.update(canonical_bytes(part).data)
    header.append([digest.hexdigest() for digest in digests])
    return hashlib.sha256(json.dumps(header).encode()).hexdigest()
