"""Verify: checks that everything the kept versions of a data_id refer to exists, decodes, and is unchanged.

Reads every stored row once and changes nothing. Of attached files it looks whether they are as they were.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from storegate_engine.arrays import RowArray, StoredArray, check_array
from storegate_engine.encodings import row_nbytes
from storegate_engine.errors import StoreError
from storegate_engine.store.manifests import Unreadable
from storegate_engine.store.repository import VersionedRepository
from storegate_engine.table import foreign_arrays, stored_arrays

__all__ = ["CheckResult", "verify"]


@dataclass(frozen=True, slots=True)
class CheckResult:
    """One manifest or array, and its problem, if any."""

    key: str
    """Its key below the data_id; the key of a shard if that is damaged."""
    used_by: str
    """The variables of the newest version that use it; empty if only older versions do."""
    nbytes: int
    """Bytes of its rows."""
    problem: str = ""
    """What is wrong; empty if nothing is."""


def verify(repository: VersionedRepository) -> Iterator[CheckResult]:
    """Check every manifest, and every array that one of them refers to; yield a result for each.

    An array with several damaged shards gives a result for each of them.
    """
    arrays: dict[StoredArray, list[str]] = {}
    foreign: dict[RowArray, list[str]] = {}
    kept = repository.log.kept()
    for manifest in kept:
        key = repository.log.key(manifest.version)
        if isinstance(manifest, Unreadable):
            yield CheckResult(key, "", 0, manifest.problem)
            continue
        try:
            table = repository.table_at(manifest.version)
        except StoreError as err:
            yield CheckResult(key, "", 0, str(err))
            continue
        yield CheckResult(key, "", 0)
        newest = manifest is kept[-1]
        for array, users in stored_arrays(table).items():
            arrays[array] = users if newest else arrays.get(array, [])
        for attached, users in foreign_arrays(table).items():
            foreign[attached] = users if newest else foreign.get(attached, [])
    for array, users in arrays.items():
        key = f"segments/{array.segment}/{array.name}"
        nbytes = array.n_rows * row_nbytes(array.dtype, array.row_shape)
        for found in check_array(array):
            yield CheckResult("/".join(filter(None, (key, found.key))), ", ".join(users), nbytes, found.problem)
    for attached, users in foreign.items():
        nbytes = attached.n_rows * row_nbytes(attached.dtype, attached.row_shape)
        key = str(attached)
        for problem in [*attached.problems()] or [""]:
            yield CheckResult(key, ", ".join(users), nbytes, problem)
