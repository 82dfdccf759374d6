"""Store commands: what the command line does with every data_id of a store, or the one that is named."""

from __future__ import annotations

import argparse
import textwrap
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

from storegate import StoreGate
from storegate.display import terminal_width
from storegate.plain import as_json, json_text
from storegate_engine.errors import DataIdError, StoreGateError, near_match

if TYPE_CHECKING:
    from storegate.parsing import OpenMode

__all__ = ["COMMANDS", "run"]

T = TypeVar("T")


def run(arguments: argparse.Namespace) -> int:
    """Run a command."""
    return COMMANDS[arguments.name](arguments) or 0


def info(arguments: argparse.Namespace) -> None:
    """Show what each data_id holds."""

    def facts(gate: StoreGate) -> dict[str, Any]:
        table = gate.repository().table
        phases = {
            phase: {
                variable.name: {
                    "dtype": variable.dtype,
                    "rows": len(variable),
                    "row_shape": variable.row_shape,
                    "kind": variable.kind,
                }
                for at, variable in table
                if at == phase
            }
            for phase in dict.fromkeys(at for at, _ in table)
        }
        return {
            "data_id": gate.data_id,
            "version": gate.repository().version,
            "compiled": table.compiled,
            "phases": phases,
        }

    def show(gate: StoreGate) -> dict[str, Any]:
        if arguments.json:
            return facts(gate)
        gate.show_info()
        return {}

    found = _each(arguments, show)
    if arguments.json:
        print(json_text(found))
    elif not found:
        print("there is no data_id yet; storegate read STORE FILE --data-id NAME adds one")


def history(arguments: argparse.Namespace) -> None:
    """List the kept versions."""

    def show(gate: StoreGate) -> dict[str, Any]:
        versions = gate.history()
        if not arguments.json:
            print(f"StoreGate data_id : {gate.data_id}\n{versions!r}")
        return {"data_id": gate.data_id, "versions": versions}

    found = _each(arguments, show, version=0)  # at version 0, which always opens; the newest one may not
    if arguments.json:
        print(json_text(found))


def verify(arguments: argparse.Namespace) -> int:
    """Check that all data are present and undamaged; 1 if not."""

    def show(gate: StoreGate) -> dict[str, Any]:
        found = gate.verify()
        if not arguments.json:
            print(f"StoreGate data_id : {gate.data_id}, {len(found)} checked, {len(found.problems)} problems")
            if found.problems:
                print(repr(found.problems))
        return {"data_id": gate.data_id, "checked": len(found), "problems": found.problems}

    found = _each(arguments, show, version=0)
    if arguments.json:
        print(json_text(found))
    return 1 if any(of["problems"] for of in found) else 0


def repair(arguments: argparse.Namespace) -> None:
    """Restore the last version that opens."""

    def show(gate: StoreGate, data_id: str) -> dict[str, Any]:
        version = gate.repair(data_id)
        if not arguments.json:
            done = "opens, nothing to repair" if version is None else f"version {version} is the newest again"
            print(f"StoreGate data_id : {data_id}, {done}")
        return {"data_id": data_id, "restored_version": version}

    found = _each_id(arguments, show, "a")
    if arguments.json:
        print(json_text(found))


def vacuum(arguments: argparse.Namespace) -> None:
    """Free the space that no kept version needs."""

    def show(gate: StoreGate) -> dict[str, Any]:
        done = gate.vacuum(
            older_than=arguments.older_than, keep_versions=arguments.keep_versions, dry_run=not arguments.apply
        )
        if not arguments.json:
            words = f"StoreGate data_id : {gate.data_id}, {done}"
            print(textwrap.fill(words, terminal_width(), subsequent_indent="  ", break_long_words=False))
        return {"data_id": gate.data_id, **as_json(done)}

    found = _each(arguments, show, "a" if arguments.apply else "r")
    if arguments.json:
        print(json_text(found))
    elif not arguments.apply:
        print("nothing was removed; to remove it, add --apply")


def _each(
    arguments: argparse.Namespace, do: Callable[[StoreGate], T], mode: OpenMode = "r", version: int | None = None
) -> list[T]:
    """Return the results of ``do`` for the store's gate at each requested data_id; see :func:`_each_id`."""

    def at(gate: StoreGate, data_id: str) -> T:
        gate.set_data_id(data_id)
        return do(gate)

    return _each_id(arguments, at, mode, version)


def _each_id(
    arguments: argparse.Namespace, do: Callable[[StoreGate, str], T], mode: OpenMode, version: int | None = None
) -> list[T]:
    """Return the results of ``do`` for each requested data_id, even if it cannot be opened.

    If one fails, the others are still done; then an error is raised.
    """
    results: list[T] = []
    errors: list[Exception] = []
    with StoreGate("zarr", {"output_dir": arguments.store, "mode": "r"}):
        pass  # do not create a missing store
    with StoreGate("zarr", {"output_dir": arguments.store, "mode": mode}, version=version) as gate:
        known = gate.get_data_ids()
        wanted = known if arguments.data_id is None else [arguments.data_id]
        for data_id in wanted:
            if data_id not in known:
                raise DataIdError(
                    f"no data_id {data_id!r} in {arguments.store}{near_match(data_id, known)} "
                    f"(data_ids: {', '.join(known) or 'none'})"
                )
            try:
                results.append(do(gate, data_id))
            except (StoreGateError, OSError, ValueError) as err:
                err.args = (f"data_id {data_id}: {err}",)
                errors.append(err)
    if errors:
        errors[0].args = ("\n".join(map(str, errors)),)
        raise errors[0]
    return results


COMMANDS: dict[str, Callable[[argparse.Namespace], int | None]] = {
    command.__name__: command for command in (info, history, verify, repair, vacuum)
}
"""The commands, by name."""
