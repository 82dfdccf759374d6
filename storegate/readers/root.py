"""ROOT: the branches of TTrees and the fields of RNTuples, with uproot."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from storegate.parsing import named
from storegate.readers.paths import head_of
from storegate_engine.errors import ArgumentError, VariableNotFoundError, near_match
from storegate_engine.optional import require_package

__all__ = ["RootReader"]

TREES = ("TTree", "TNtuple", "TNtupleD", "TChain", "ROOT::RNTuple", "ROOT::Experimental::RNTuple")


class RootReader:
    """ROOT: a variable for each branch; only those that are asked for are read."""

    suffixes = (".root",)
    options = ("group", "cut")

    def holds(self, path: Path) -> bool:
        """Return whether the file begins as files of ROOT do."""
        return head_of(path, 4) == b"root"

    @contextlib.contextmanager
    def open(self, path: Path, names: Sequence[str] | None, options: Mapping[str, Any]) -> Iterator[object]:
        """Open a file, as a tree, or as the entries of it that pass a cut."""
        uproot = require_package("uproot", "root", str(path))
        # no caches: each block of entries is read once
        with uproot.open(str(path), object_cache=None, array_cache=None) as file:
            tree = _tree(file, options.get("group"))
            yield _cut(tree, options["cut"], names) if "cut" in options else tree


def _tree(file: Any, name: str | None) -> Any:
    """Return a tree by name, or the only one of a file.

    Raises
    ------
    VariableNotFoundError
        There is no such tree.
    ArgumentError
        There are several, and none is named.
    """
    trees = list(dict.fromkeys(file.keys(filter_classname=lambda kind: kind in TREES, cycle=False)))
    if name is None and len(trees) == 1:
        return file[trees[0]]
    if name is None and trees:
        raise ArgumentError(f"it has the trees {', '.join(trees)}; choose one, as in group={trees[0]!r}")
    if name is None or name.partition(";")[0] not in trees:
        raise VariableNotFoundError(
            f"it has no tree{'' if name is None else f' {name!r}{near_match(name, trees)}'} "
            f"(trees: {', '.join(trees) or 'none'})"
        )
    return file[name]


@dataclass(frozen=True, slots=True, eq=False)
class _Passing:
    """The entries of a tree that pass a cut."""

    tree: Any
    cut: str

    @property
    def n_rows(self) -> None:
        """None: the number is known only at the end."""
        return None

    def blocks(self, names: Iterable[str], block_rows: int) -> Iterator[Mapping[str, Any]]:
        """Yield those of a block of entries after the other; blocks without any are left out."""
        wanted = list(names)
        for block in self.tree.iterate(wanted, cut=self.cut, step_size=block_rows, library="np"):
            if len(block[wanted[0]]):
                yield block


def _cut(tree: Any, cut: str, names: Sequence[str] | None) -> dict[str, Any]:
    """Return the branches of a tree, as columns of the entries that pass a cut; None for those not asked for.

    Raises
    ------
    ArgumentError
        It is an RNTuple, for which uproot takes a cut and gives all entries.
    """
    if "RNTuple" in tree.classname:
        raise ArgumentError("uproot does not apply cuts to an RNTuple; read all entries, then select rows of the phase")
    known = list(tree.keys())
    wanted = known if names is None else [name for name in names if name in known]
    passing = _Passing(tree, cut)
    columns = named(wanted, tree)[1] if wanted else []
    found = zip(wanted, columns, strict=True)  # type: ignore[call-overload]  # a list of sources
    return {**dict.fromkeys(known), **{name: replace(column, whole=passing) for name, column in found}}
