"""Testing: Hypothesis strategies and a reference model for stores of samples, for our tests and those of others.

Needs the extra ``test``. The model is a plain dict of ndarrays: what a store holds must equal it after every step.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, TypeAlias

import numpy as np
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from storegate_engine.table import PHASES

__all__ = ["Model", "arrays", "dtypes", "indices", "names", "row_shapes", "splits"]

Array: TypeAlias = np.ndarray[Any, Any]

_NUMBERS = ("bool", "i1", "i4", "i8", "u1", "u2", "u8", "f2", "f4", "f8", "c8")
_OTHERS = ("U3", "S4", "M8[s]", "m8[ms]")


def names() -> st.SearchStrategy[str]:
    """Return legal variable names, few enough that they repeat."""
    return st.sampled_from(["x", "jet_pt", "label", "é_1", "a b"])


def dtypes(*, text: bool = True) -> st.SearchStrategy[np.dtype[Any]]:
    """Return dtypes that can be stored."""
    return st.sampled_from([np.dtype(name) for name in (*_NUMBERS, *(_OTHERS if text else ()))])


def row_shapes() -> st.SearchStrategy[tuple[int, ...]]:
    """Return shapes of one row, including empty ones."""
    return st.sampled_from([(), (1,), (3,), (2, 2), (0,)])


@st.composite
def arrays(
    draw: st.DrawFn,
    n_rows: int | None = None,
    *,
    dtype: np.dtype[Any] | None = None,
    row_shape: tuple[int, ...] | None = None,
    max_rows: int = 40,
) -> Array:
    """Return arrays of rows with the sample axis first."""
    rows = draw(st.integers(1, max_rows)) if n_rows is None else n_rows
    kind = draw(dtypes()) if dtype is None else dtype
    tail = draw(row_shapes()) if row_shape is None else row_shape
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    return random_rows(rng, rows, kind, tail)


def random_rows(rng: np.random.Generator, n_rows: int, dtype: np.dtype[Any], row_shape: tuple[int, ...]) -> Array:
    """Return random values of any storable dtype."""
    shape = (n_rows, *row_shape)
    if dtype.kind in "US":
        words = np.array(["", "a", "é", "xyz"] if dtype.kind == "U" else [b"", b"a", b"\xe9", b"wxyz"])
        return rng.choice(words, shape).astype(dtype)
    if dtype.kind in "mM":
        values = rng.integers(-(10**9), 10**9, shape).astype(dtype)
        values[rng.random(shape) < 0.1] = np.array("NaT", dtype)
        return values
    if dtype.kind in "fc":
        return rng.standard_normal(shape).astype(dtype)
    return rng.integers(0, 100, shape).astype(dtype)


@st.composite
def indices(draw: st.DrawFn, n_rows: int) -> Any:
    """Return an index for ``view[index]``: an int, slice, list, array or mask."""
    row, most = (st.integers(-n_rows, n_rows - 1), 8) if n_rows else (st.nothing(), 0)
    bound = st.none() | st.integers(-n_rows - 2, n_rows + 2)
    return draw(
        st.one_of(
            row,
            row.map(np.int64),
            st.builds(slice, bound, bound, st.sampled_from([None, 1, 2, -1])),
            st.lists(row, max_size=most),
            hnp.arrays(np.int64, st.integers(0, most), elements=row),
            hnp.arrays(np.bool_, n_rows),
        )
    )


@st.composite
def splits(draw: st.DrawFn, n_rows: int) -> Any:
    """Return a phase, fractions that sum to 1, or counts that sum to the number of rows."""
    first = draw(st.integers(0, n_rows))
    second = draw(st.integers(0, n_rows - first))
    counts = (first, second, n_rows - first - second)
    return draw(st.sampled_from([*PHASES, counts, (0.5, 0.25, 0.25), (0.8, 0.2, 0.0), (0.1, 0.29, 0.61)]))


@dataclass
class Model:
    """The expected content of a table: plain ndarrays by phase and name."""

    phases: dict[str, dict[str, Array]] = field(default_factory=lambda: {phase: {} for phase in PHASES})

    def append(self, phase: str, name: str, rows: Array) -> None:
        """Append rows to the old ones, in the dtype of :meth:`appended_dtype`."""
        old = self.phases[phase].get(name)
        if old is None:
            self.phases[phase][name] = rows.copy()
            return
        dtype = self.appended_dtype(old, rows)
        assert dtype is not None, "a store refuses them"
        self.phases[phase][name] = np.concatenate([old.astype(dtype), rows.astype(dtype)])

    def replace(self, phase: str, name: str, index: Any, rows: Array) -> None:
        """Replace rows; the dtype stays if it can hold the new values."""
        old = self.phases[phase][name]
        if not np.size(np.arange(len(old))[index]):
            return
        dtype = self.fitting_dtype(old, rows)
        assert dtype is not None, "a store refuses them"
        new = old.astype(dtype)
        new[index] = rows
        self.phases[phase][name] = new

    @staticmethod
    def appended_dtype(old: Array, rows: Array) -> np.dtype[Any] | None:
        """Return the dtype of a variable after rows are appended, None if a value of either would change."""
        dtype = np.result_type(old.dtype, rows.dtype)
        if dtype.kind == "f" and old.dtype.kind in "iu" and rows.dtype.kind in "iu":
            dtype = old.dtype
        return dtype if _stays(old, dtype) and _stays(rows, dtype) else None

    @classmethod
    def fitting_dtype(cls, old: Array, rows: Array) -> np.dtype[Any] | None:
        """Return the dtype of a variable after an update with ``rows``, None if a value would change."""
        is_rounded = rows.dtype.kind in "fc" and np.can_cast(rows.dtype, old.dtype, "same_kind")
        with np.errstate(all="ignore"):
            if is_rounded and (np.isfinite(rows.astype(old.dtype)) | ~np.isfinite(rows)).all():
                return np.dtype(old.dtype)
        if not is_rounded and rows.dtype.kind not in "US" and _stays(rows, old.dtype):
            return np.dtype(old.dtype)
        return cls.appended_dtype(old, rows)

    def even(self) -> bool:
        """Return whether the variables of each phase have equal numbers of rows."""
        return all(len({len(rows) for rows in phase.values()}) <= 1 for phase in self.phases.values())


def _stays(values: Array, dtype: np.dtype[Any]) -> bool:
    """Return whether another dtype holds the values unchanged, compared exactly, as Python compares numbers."""
    if values.dtype == dtype or values.dtype.kind not in "biufc":
        return True
    if values.dtype.kind == "c" and dtype.kind != "c":
        return not values.imag.any() and _stays(values.real, dtype)
    with np.errstate(all="ignore"):
        pairs = zip(values.reshape(-1).tolist(), values.astype(dtype).reshape(-1).tolist(), strict=True)
        return all(one == other or (one != one and other != other) for one, other in pairs)
