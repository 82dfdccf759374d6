"""The command line: parses arguments and prints; never touches bytes."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from storegate import StoreGate
    from storegate.parsing import OpenMode

__all__ = ["main"]

T = TypeVar("T")

SHELLS = ("bash", "zsh", "tcsh")
DEMO_PACKAGES = frozenset({"awkward", "h5py", "km3net_testdata", "uproot"})


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line.

    Parameters
    ----------
    argv : sequence of str, optional
        The arguments after the program's name; default: those of the process.

    Returns
    -------
    int
        The exit status: 0; 1 when ``verify`` or ``check`` found something wrong; 2 after an error that has been
        printed; 130 after Ctrl-C, with the store as it was.
    """
    parser = _parser()
    arguments = parser.parse_args(argv)
    command: Callable[[argparse.Namespace], int | None] = arguments.command
    try:
        return command(arguments) or 0
    except CommandError as err:
        if getattr(arguments, "debug", False):
            raise
        print(f"storegate: error: {err}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("storegate: interrupted; the store is as it was", file=sys.stderr)
        return 130


class CommandError(Exception):
    """A command cannot go on; the message says why."""


class _Version(argparse.Action):
    """Print the version, which is looked up only here: that takes longer than all the rest of ``--help``."""

    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> None:
        from storegate import __version__

        print(f"storegate {__version__}")
        parser.exit()


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="storegate", description="Sample tables for machine learning, larger than memory."
    )
    parser.add_argument("--version", action=_Version, nargs=0, help="show program's version number and exit")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    demo = commands.add_parser(
        "demo",
        help="build, shuffle and read a store of real data",
        description="Build a store of real neutrino-telescope data, and do with it what a training would.",
    )
    demo.add_argument("--directory", metavar="DIR", help="where to build the store (default: a new temporary one)")
    demo.add_argument("--budget", metavar="SIZE", help="memory limit, without Python and its libraries, as in 64MiB")
    demo.set_defaults(command=_demo)

    info = commands.add_parser(
        "info", help="show what a store holds", description="Show what a store holds; reads no data."
    )
    _add_store(info)
    info.set_defaults(command=_info)

    history = commands.add_parser(
        "history", help="list the kept versions", description="List the kept versions and how they came to be."
    )
    _add_store(history)
    history.set_defaults(command=_history)

    verify = commands.add_parser(
        "verify",
        help="check that all data are present and undamaged",
        description="Read everything that the kept versions refer to and compare it with the checksums of what was "
        "written. The exit status is 0 when all is well, 1 when something is wrong, 2 when the store cannot be opened.",
    )
    _add_store(verify)
    verify.set_defaults(command=_verify)

    repair = commands.add_parser(
        "repair",
        help="restore the last version that opens",
        description="For a data_id whose newest version cannot be opened: commit the last version that opens as a new "
        "one. Nothing is removed.",
    )
    _add_store(repair)
    repair.set_defaults(command=_repair)

    vacuum = commands.add_parser(
        "vacuum",
        help="free the space that no kept version needs",
        description="Remove versions replaced long ago, rows that no version needs, and files left by killed "
        "processes. Without --apply, only report what would be removed.",
    )
    _add_store(vacuum)
    vacuum.add_argument("--older-than", metavar="AGE", default="1d", help="seconds, or as in 12h, 30d (default: 1d)")
    vacuum.add_argument(
        "--keep-versions", metavar="N", type=int, default=1, help="newest versions to keep (default: 1)"
    )
    vacuum.add_argument("--apply", action="store_true", help="remove them")
    vacuum.set_defaults(command=_vacuum)
    _add_commands_of_one(commands)
    completion = commands.add_parser(
        "completion",
        help="print what completes commands in a shell",
        description="Print a script that completes commands, options and files: for bash, add "
        '`eval "$(storegate completion bash)"` to ~/.bashrc; for zsh, save it as _storegate in a folder of $fpath.',
    )
    completion.add_argument("shell", choices=SHELLS, help="the shell")
    completion.set_defaults(command=_completion)
    return parser


def _add_commands_of_one(commands: Any) -> None:
    """Add the commands for one data_id; `commands` runs them."""

    def add(name: str, words: str, *, phase: str | None = None, json: bool = False) -> argparse.ArgumentParser:
        one: argparse.ArgumentParser = commands.add_parser(name, help=words, description=f"{words.capitalize()}.")
        one.add_argument("store", metavar="STORE", help="a directory or URL")
        one.add_argument("--data-id", metavar="ID", help="the data_id; not needed if there is only one")
        one.add_argument("--budget", metavar="SIZE", help="memory limit, as in 512MiB")
        one.add_argument("--debug", action="store_true", help="show where an error came from")
        if phase is not None:
            one.add_argument("--phase", default=phase, help=f"train, valid, test or all (default: {phase})")
        if json:
            one.add_argument("--json", action="store_true", help="print JSON")
        one.set_defaults(command=_one, name=name)
        return one

    add("ls", "list the variables of each phase", json=True)
    head = add("head", "show the first rows of a phase", phase="train", json=True)
    head.add_argument("-n", "--rows", type=int, default=5, metavar="N", help="rows (default: 5)")
    head.add_argument("--variables", metavar="A,B", help="these only")
    add("describe", "show statistics of each variable", phase="all", json=True)
    add("explain", "show how rows would be read", phase="train")
    for name, words in (("read", "copy files into a store"), ("attach", "train on files where they are")):
        files = add(name, words)
        files.add_argument("files", nargs="+", metavar="FILE", help="files or patterns")
        files.add_argument("--variables", metavar="A,B", help="these only, or a name for a single array")
        files.add_argument("--phase", default="train", help="a phase, or shares as in 0.8,0.1,0.1 (default: train)")
        files.add_argument("--seed", type=int, metavar="N", help="shuffle the rows with this seed")
    split = add("split", "deal all rows anew to train, valid and test")
    split.add_argument("shares", type=_number, nargs=3, metavar="SHARE", help="three fractions, or numbers of rows")
    split.add_argument("--stratify", metavar="A,B", help="each phase gets its share of these labels")
    split.add_argument("--groups", metavar="A,B", help="no such group is in two phases")
    split.add_argument("--by", metavar="A", help="the smallest values are train")
    split.add_argument("--hash", metavar="A,B", help="a hash of these decides")
    split.add_argument("--purge", type=int, default=0, metavar="N", help="values of --by left out at each threshold")
    split.add_argument("--seed", type=int, default=0, metavar="N", help="what chance depends on (default: 0)")
    shuffle = add("shuffle", "shuffle a phase, or each", phase="all")
    shuffle.add_argument("--seed", type=int, default=0, metavar="N", help="the order depends on it (default: 0)")
    add("compact", "rewrite rows in their order, with transforms applied", phase="all")
    export = add("export", "write a phase as a file of zarr, NetCDF, Parquet or HDF5", phase="train")
    export.add_argument("target", metavar="FILE", help="a path at which there is nothing yet")
    check = add("check", "look for rows and groups that several phases have; status 1 if there are some")
    check.add_argument("--groups", metavar="A,B", help="variables that must be in one phase only")
    report = add("report", "write a page about a store: classes, histograms, drift, first rows, costs", json=True)
    report.add_argument("-o", "--output", metavar="FILE", help="the page to write; replaces an earlier one")
    report.add_argument("--check", action="store_true", help="look for rows that several phases have; one more pass")
    diff = add("diff", "show what differs between two versions")
    diff.add_argument("first", type=int, metavar="A", help="a version")
    diff.add_argument("second", type=int, metavar="B", help="another version")
    rollback = add("rollback", "restore an earlier version, as a new one")
    rollback.add_argument("version", type=int, metavar="VERSION", help="its number, see history")
    add("undo", "take the last change back")


def _number(text: str) -> float | int:
    return float(text) if "." in text else int(text)


def _add_store(command: argparse.ArgumentParser) -> None:
    command.add_argument("store", metavar="STORE", help="a directory or URL")
    command.add_argument("--data-id", metavar="ID", help="only this data_id")


# The commands import what they need themselves, on purpose: `storegate --help` stays immediate.


def _demo(arguments: argparse.Namespace) -> None:
    try:
        from storegate import demo
    except ModuleNotFoundError as err:
        if err.name is None or err.name.partition(".")[0] not in DEMO_PACKAGES:
            raise
        raise CommandError(
            f'the demo needs the package {err.name!r}; install it with: python -m pip install "storegate[demo]"'
        ) from err
    from storegate_engine.errors import StoreGateError

    try:
        demo.run(arguments.directory, budget=arguments.budget or demo.BUDGET)
    except StoreGateError as err:
        raise CommandError(str(err)) from err


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
    from storegate import StoreGate
    from storegate_engine.errors import StoreGateError, near_match, printable

    results, errors = [], []
    try:
        with StoreGate("zarr", {"output_dir": arguments.store, "mode": "r"}):
            pass  # do not create a missing store
        with StoreGate("zarr", {"output_dir": arguments.store, "mode": mode}, version=version) as gate:
            known = gate.get_data_ids()
            wanted = known if arguments.data_id is None else [arguments.data_id]
            for data_id in wanted:
                if data_id not in known:
                    raise CommandError(
                        f"no data_id {data_id!r} in {arguments.store}{near_match(data_id, known)} "
                        f"(data_ids: {', '.join(known) or 'none'})"
                    )
                try:
                    results.append(do(gate, data_id))
                except (StoreGateError, OSError, ValueError) as err:
                    errors.append(f"data_id {data_id}: {err}")
    except (StoreGateError, OSError, ValueError) as err:
        raise CommandError(printable(str(err))) from err
    if errors:
        raise CommandError(printable("\n".join(errors)))
    return results


def _one(arguments: argparse.Namespace) -> int:
    from storegate import commands
    from storegate_engine.errors import StoreGateError, printable

    try:
        return commands.run(arguments)
    except (StoreGateError, OSError, ValueError, ModuleNotFoundError) as err:
        raise CommandError(printable(str(err))) from err


def _completion(arguments: argparse.Namespace) -> None:
    from storegate_engine.optional import require_package

    try:
        shtab = require_package("shtab", "completion", "storegate completion")
    except ImportError as err:
        raise CommandError(str(err)) from err
    parser = _parser()
    (commands,) = (action for action in parser._actions if isinstance(action, argparse._SubParsersAction))
    for command in commands.choices.values():
        for action in command._actions:
            if action.dest == "phase" and arguments.shell != "tcsh":
                action.choices = ["train", "valid", "test", "all"]
            elif action.metavar in ("STORE", "DIR", "FILE"):
                action.complete = shtab.FILE if action.metavar == "FILE" else shtab.DIRECTORY
    print(shtab.complete(parser, shell=arguments.shell), end="")


def _info(arguments: argparse.Namespace) -> None:
    _each(arguments, lambda gate: gate.show_info())


def _history(arguments: argparse.Namespace) -> None:
    # at version 0, which always opens; the newest one may not
    _each(arguments, lambda gate: print(f"StoreGate data_id : {gate.data_id}\n{gate.history()!r}"), version=0)


def _verify(arguments: argparse.Namespace) -> int:
    def verify(gate: StoreGate) -> bool:
        found = gate.verify()
        print(f"StoreGate data_id : {gate.data_id}, {len(found)} checked, {len(found.problems)} problems")
        if found.problems:
            print(repr(found.problems))
        return not found.problems

    return 0 if all(_each(arguments, verify, version=0)) else 1


def _repair(arguments: argparse.Namespace) -> None:
    def repair(gate: StoreGate, data_id: str) -> None:
        version = gate.repair(data_id)
        done = "opens, nothing to repair" if version is None else f"version {version} is the newest again"
        print(f"StoreGate data_id : {data_id}, {done}")

    _each_id(arguments, repair, "a")


def _vacuum(arguments: argparse.Namespace) -> None:
    def vacuum(gate: StoreGate) -> None:
        done = gate.vacuum(
            older_than=arguments.older_than, keep_versions=arguments.keep_versions, dry_run=not arguments.apply
        )
        print(f"StoreGate data_id : {gate.data_id}, {done}")

    _each(arguments, vacuum, "a" if arguments.apply else "r")
    if not arguments.apply:
        print("nothing was removed; to remove it, add --apply")
