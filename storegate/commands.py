"""Commands: what the command line does with one data_id of a store; each is one call of a gate, and what it prints."""

from __future__ import annotations

import argparse
import contextlib
import sys
import textwrap
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from storegate import StoreGate
from storegate.display import aligned, cut, plans_of, terminal_width
from storegate.parsing import PHASES, BackendArgs
from storegate.plain import as_json, json_text
from storegate.report import require_place
from storegate.statistics import statistics_of
from storegate_engine.contents import MARKER
from storegate_engine.errors import ArgumentError, DataIdError, printable

if TYPE_CHECKING:
    import pandas as pd

    from storegate_engine.table import Variable

__all__ = ["COMMANDS", "run"]

MODES = {"read": "a", "attach": "a", "split": "r+", "shuffle": "r+", "compact": "r+", "rollback": "r+", "undo": "r+"}
"""How commands open the store; the others only read."""


def run(arguments: argparse.Namespace) -> int:
    """Run a command on the only data_id of a store, or the one that is named."""
    mode: Any = MODES.get(arguments.name, "r")
    options = {"budget": arguments.budget} if arguments.budget else {}
    if mode != "a":
        with StoreGate.open(arguments.store, arguments.data_id, mode=mode, **options) as gate:
            return COMMANDS[arguments.name](gate, arguments) or 0
    args: BackendArgs = {"output_dir": arguments.store, "mode": mode}
    if arguments.budget:
        args["budget"] = arguments.budget
    with _no_empty_store(arguments.store), StoreGate("zarr", args, data_id=arguments.data_id) as gate:
        if arguments.data_id is None:  # a new store has no data_id yet
            known = gate.get_data_ids()
            gate.set_data_id(known[0] if len(known) == 1 else _needed(known))
        return COMMANDS[arguments.name](gate, arguments) or 0


@contextlib.contextmanager
def _no_empty_store(store: str) -> Iterator[None]:
    """Remove a store that was made for files of which none came in, and the folders made for it."""
    place = Path(store)
    new = [] if "://" in store else [at for at in (place, *place.parents) if not at.exists()]
    try:
        yield
    except BaseException:
        if new and [child.name for child in place.glob("*")] == [MARKER]:
            (place / MARKER).unlink()
            with contextlib.suppress(OSError):  # others have put something there meanwhile
                for folder in new:
                    folder.rmdir()
        raise


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
        print(json_text(found))
        return
    header = ["phase", "name", "dtype", "shape", "nbytes"]
    print(aligned([header, *([str(line[key]) for key in header] for line in found)]))


def head(gate: StoreGate, arguments: argparse.Namespace) -> None:
    """Show the first rows of a phase."""
    view: Any = gate[_phase(gate, arguments)]
    if arguments.variables:
        view = view[arguments.variables.split(",")]
    if not arguments.json:
        print(_text(view.to_pandas(arguments.rows)))
        return
    variables = view.__storegate_variables__()
    n_rows = min([arguments.rows, *map(len, variables)])
    columns = {of.name: _first(of, n_rows) for of in variables}
    print(json_text([dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]))


def _first(variable: Variable, n_rows: int) -> list[Any]:
    """Return the first rows; of categories, these."""
    rows: list[Any] = as_json(variable.read(0, n_rows))
    known = variable.about.categories
    return rows if known is None else [as_json(known[code]) for code in rows]


def describe(gate: StoreGate, arguments: argparse.Namespace) -> None:
    """Show statistics of each variable, which are counted in one pass if they are not known."""
    found = []
    for phase in PHASES if arguments.phase == "all" else (arguments.phase,):
        view: Any = gate[phase]
        if view.var_names and not arguments.json:
            print(f"{phase}\n{_text(view.describe(), float_format='{:.6g}'.format)}")
        elif view.var_names:
            variables = view.__storegate_variables__()
            for variable, line in zip(variables, statistics_of(variables, gate.budget_nbytes), strict=True):
                found.append({"phase": phase, "name": variable.name, **line})
    if arguments.json:
        print(json_text(found))


def read(gate: StoreGate, arguments: argparse.Namespace) -> None:
    """Copy files into the store."""
    names, phase, form = _names(arguments), _target(arguments.phase), arguments.format
    gate.read(arguments.files, names, phase, _shuffle(arguments), do_compile=True, format=form)
    _say(gate, arguments)


def attach(gate: StoreGate, arguments: argparse.Namespace) -> None:
    """Attach files, which stay where they are."""
    names, phase, form = _names(arguments), _target(arguments.phase), arguments.format
    gate.attach(arguments.files, names, phase, _shuffle(arguments), format=form)
    _say(gate, arguments)


def split(gate: StoreGate, arguments: argparse.Namespace) -> None:
    """Deal all rows anew to the phases."""
    rules: dict[str, Any] = {key: getattr(arguments, key) for key in ("stratify", "groups", "by", "hash")}
    rules = {key: value.split(",") if key != "by" else value for key, value in rules.items() if value is not None}
    gate.split(tuple(arguments.shares), purge=arguments.purge, seed=arguments.seed, **rules)
    _say(gate, arguments)


def shuffle(gate: StoreGate, arguments: argparse.Namespace) -> None:
    """Shuffle a phase, or each."""
    gate.shuffle(arguments.phase, seed=arguments.seed)


def compact(gate: StoreGate, arguments: argparse.Namespace) -> None:
    """Rewrite rows in their order."""
    gate.compact(arguments.phase)


def export(gate: StoreGate, arguments: argparse.Namespace) -> None:
    """Write a phase as a file that other tools open."""
    names = arguments.variables.split(",") if arguments.variables else None
    gate.export(arguments.target, arguments.phase, arguments.format, names)


def check(gate: StoreGate, arguments: argparse.Namespace) -> int:
    """Look for what phases share; 1 if there is something."""
    found = gate.check(groups=arguments.groups.split(",") if arguments.groups else None)
    if not arguments.json:
        print(repr(found))
    else:
        pairs = [
            {
                "phases": pair,
                "equal_rows": n_rows,
                "examples": found.examples.get(pair, ()),
                "shared_groups": found.shared_groups.get(pair),
            }
            for pair, n_rows in found.equal_rows.items()
        ]
        facts = {"ok": found.ok, "n_rows": found.n_rows, "pairs": pairs, "repeated_rows": found.repeated_rows}
        print(json_text({**facts, "unequal_variables": found.unequal_variables}))
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
        print(json_text(found.to_json()))


def diff(gate: StoreGate, arguments: argparse.Namespace) -> None:
    """Show what differs between two versions."""
    found = gate.diff(arguments.first, arguments.second)
    if arguments.json:
        print(json_text(found))
    else:
        print(repr(found))


def rollback(gate: StoreGate, arguments: argparse.Namespace) -> None:
    """Restore an earlier version, as a new one."""
    gate.rollback(arguments.version)
    _say(gate, arguments)


def undo(gate: StoreGate, arguments: argparse.Namespace) -> None:
    """Take the last change back."""
    gate.undo()
    _say(gate, arguments)


def explain(gate: StoreGate, arguments: argparse.Namespace) -> None:
    """Show how rows would be read."""
    view = gate[_phase(gate, arguments)]
    if arguments.json:
        print(json_text([{"name": name, "pass": what, "plan": plan} for name, what, plan in plans_of(view)]))
    elif sys.stdout.isatty():
        width = terminal_width()
        for name, what, plan in plans_of(view):
            line = f"{cut(name, width // 3)}  {what}  {plan if isinstance(plan, str) else plan.describe()}"
            print(textwrap.fill(line, width, subsequent_indent="    ", break_long_words=False))
    else:
        print(view.explain())


def _phase(gate: StoreGate, arguments: argparse.Namespace) -> Any:
    """Return the phase that was asked for, or else the first that has variables."""
    return arguments.phase or next((at for at in PHASES if gate[at].var_names), PHASES[0])


def _text(frame: pd.DataFrame, **options: Any) -> str:
    """Return a frame as text; in a terminal, columns that do not fit beside others follow below."""
    # pandas compares values with numbers that are infinite in float16, and warns
    frame = frame.astype({name: "f4" for name, dtype in frame.dtypes.items() if dtype == "f2"})
    if sys.stdout.isatty():
        width = terminal_width()

        def shorter(name: object) -> str:
            return cut(str(name), width // 3)

        frame = frame.rename(columns=shorter, index=shorter)
        options |= {"line_width": width, "max_colwidth": width // 2}
    return printable(frame.to_string(**options))


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


def _say(gate: StoreGate, arguments: argparse.Namespace) -> None:
    if arguments.json:
        print(json_text({"version": gate.repository().version, "sizes": gate.sizes}))
        return
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
