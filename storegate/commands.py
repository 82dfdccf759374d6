"""Commands: what the command line does with one data_id of a store; each is one call of a gate, and what it prints."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Sequence
from typing import Any

from storegate import StoreGate
from storegate.display import aligned
from storegate.parsing import PHASES, BackendArgs
from storegate.report import require_place
from storegate_engine.errors import ArgumentError, DataIdError, printable

__all__ = ["COMMANDS", "run"]

MODES = {"read": "a", "attach": "a", "split": "r+", "shuffle": "r+", "compact": "r+", "rollback": "r+", "undo": "r+"}
"""How commands open the store; the others only read."""


def run(arguments: argparse.Namespace) -> int:
    """Run a command on the only data_id of a store, or the one that is named."""
    mode: Any = MODES.get(arguments.name, "r")
    options = {"budget": arguments.budget} if arguments.budget else {}
    if mode == "a":  # a new store has no data_id yet
        args: BackendArgs = {"output_dir": arguments.store, "mode": mode}
        if arguments.budget:
            args["budget"] = arguments.budget
        gate = StoreGate("zarr", args, data_id=arguments.data_id)
        if arguments.data_id is None:
            known = gate.get_data_ids()
            gate.set_data_id(known[0] if len(known) == 1 else _needed(known))
    else:
        gate = StoreGate.open(arguments.store, arguments.data_id, mode=mode, **options)
    with gate:
        return COMMANDS[arguments.name](gate, arguments) or 0


def _needed(known: Sequence[str]) -> str:
    raise DataIdError(f"give --data-id, the name of the table (data_ids: {', '.join(known) or 'none yet'})")


def ls(gate: StoreGate, arguments: argparse.Namespace) -> None:
    """List the variables of each phase."""
    found = [
        {
            "phase": phase,
            "name": name,
            "dtype": str(gate[phase][name].dtype),
            "shape": list(gate[phase][name].shape),
            "nbytes": gate[phase][name].nbytes,
        }
        for phase in PHASES
        for name in gate[phase].var_names
    ]
    if arguments.json:
        print(json.dumps(found))
        return
    header = ["phase", "name", "dtype", "shape", "nbytes"]
    print(aligned([header, *([str(line[key]) for key in header] for line in found)]))


def head(gate: StoreGate, arguments: argparse.Namespace) -> None:
    """Show the first rows of a phase."""
    view: Any = gate[arguments.phase]
    if arguments.variables:
        view = view[arguments.variables.split(",")]
    frame = view.to_pandas(arguments.rows)
    print(frame.to_json(orient="records", date_format="iso") if arguments.json else printable(frame.to_string()))


def describe(gate: StoreGate, arguments: argparse.Namespace) -> None:
    """Show statistics of each variable, which are counted in one pass if they are not known."""
    for phase in PHASES if arguments.phase == "all" else (arguments.phase,):
        if not gate[phase].var_names:
            continue
        frame = gate[phase].describe()
        if arguments.json:
            print(json.dumps({"phase": phase, "variables": json.loads(frame.astype(str).to_json(orient="index"))}))
        else:
            print(f"{phase}\n{frame.to_string()}")


def read(gate: StoreGate, arguments: argparse.Namespace) -> None:
    """Copy files into the store."""
    gate.read(arguments.files, _names(arguments), _target(arguments.phase), _shuffle(arguments), do_compile=True)
    _say(gate)


def attach(gate: StoreGate, arguments: argparse.Namespace) -> None:
    """Attach files, which stay where they are."""
    gate.attach(arguments.files, _names(arguments), _target(arguments.phase), _shuffle(arguments))
    _say(gate)


def split(gate: StoreGate, arguments: argparse.Namespace) -> None:
    """Deal all rows anew to the phases."""
    rules: dict[str, Any] = {key: getattr(arguments, key) for key in ("stratify", "groups", "by", "hash")}
    rules = {key: value.split(",") if key != "by" else value for key, value in rules.items() if value is not None}
    gate.split(tuple(arguments.shares), purge=arguments.purge, seed=arguments.seed, **rules)
    _say(gate)


def shuffle(gate: StoreGate, arguments: argparse.Namespace) -> None:
    """Shuffle a phase, or each."""
    gate.shuffle(arguments.phase, seed=arguments.seed)


def compact(gate: StoreGate, arguments: argparse.Namespace) -> None:
    """Rewrite rows in their order."""
    gate.compact(arguments.phase)


def export(gate: StoreGate, arguments: argparse.Namespace) -> None:
    """Write a phase as a file that other tools open."""
    gate.export(arguments.target, arguments.phase)


def check(gate: StoreGate, arguments: argparse.Namespace) -> int:
    """Look for what phases share; 1 if there is something."""
    found = gate.check(groups=arguments.groups.split(",") if arguments.groups else None)
    print(repr(found))
    return 0 if found.ok else 1


def report(gate: StoreGate, arguments: argparse.Namespace) -> None:
    """Write a page about the store, or print what it says."""
    if arguments.output is None and not arguments.json:
        raise ArgumentError("report needs a file to write, -o report.html, or --json to print what it would say")
    if arguments.output is not None:
        require_place(arguments.output)  # before the pass over the rows
    found = gate.report(check=arguments.check)
    if arguments.output is not None:
        found.save(arguments.output)
    if arguments.json:
        print(json.dumps(found.to_json(), allow_nan=False))


def diff(gate: StoreGate, arguments: argparse.Namespace) -> None:
    """Show what differs between two versions."""
    print(repr(gate.diff(arguments.first, arguments.second)))


def rollback(gate: StoreGate, arguments: argparse.Namespace) -> None:
    """Restore an earlier version, as a new one."""
    gate.rollback(arguments.version)
    _say(gate)


def undo(gate: StoreGate, arguments: argparse.Namespace) -> None:
    """Take the last change back."""
    gate.undo()
    _say(gate)


def explain(gate: StoreGate, arguments: argparse.Namespace) -> None:
    """Show how rows would be read."""
    print(gate[arguments.phase].explain())


def _names(arguments: argparse.Namespace) -> list[str] | str | None:
    given: str | None = arguments.variables
    if given is None:
        return None
    return given.split(",") if "," in given else given


def _target(phase: str) -> Any:
    """Return a phase, or the shares of a split such as 0.8,0.1,0.1."""
    if "," not in phase:
        return phase
    return tuple(float(share) if "." in share else int(share) for share in phase.split(","))


def _shuffle(arguments: argparse.Namespace) -> int | bool:
    return False if arguments.seed is None else int(arguments.seed)


def _say(gate: StoreGate) -> None:
    sizes = ", ".join(f"{phase} {n_rows:,}" for phase, n_rows in gate.sizes.items())
    print(f"version {gate.repository().version}: {sizes or 'no rows'}")


COMMANDS: dict[str, Callable[[StoreGate, argparse.Namespace], int | None]] = {
    command.__name__: command
    for command in (
        ls, head, describe, read, attach, split, shuffle, compact, export, check, diff, rollback, undo, explain,
        report
    )
}  # fmt: skip
"""The commands, by name."""
