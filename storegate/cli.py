"""The command line: parses arguments and prints; never touches bytes."""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Callable, Sequence
from io import TextIOWrapper
from typing import Any

__all__ = ["main"]

SHELLS = ("bash", "zsh", "tcsh")
DEMO_PACKAGES = frozenset({"awkward", "h5py", "km3net_testdata", "uproot"})
OPTIONS = {"data_id": "--data-id", "format": "--format", "budget": "--budget", "var_names": "--variables"}
"""The options that are called otherwise in messages for callers in Python."""


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
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # what a terminal or a file cannot show
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
    _add_debug(demo)
    demo.set_defaults(command=_demo)

    info = commands.add_parser(
        "info", help="show what a store holds", description="Show what a store holds; reads no data."
    )
    _add_store(info)
    info.set_defaults(command=_stores, name="info")

    history = commands.add_parser(
        "history", help="list the kept versions", description="List the kept versions and how they came to be."
    )
    _add_store(history)
    history.set_defaults(command=_stores, name="history")

    verify = commands.add_parser(
        "verify",
        help="check that all data are present and undamaged",
        description="Read everything that the kept versions refer to and compare it with the checksums of what was "
        "written. The exit status is 0 when all is well, 1 when something is wrong, 2 when the store cannot be opened.",
    )
    _add_store(verify)
    verify.set_defaults(command=_stores, name="verify")

    repair = commands.add_parser(
        "repair",
        help="restore the last version that opens",
        description="For a data_id whose newest version cannot be opened: commit the last version that opens as a new "
        "one. Nothing is removed.",
    )
    _add_store(repair)
    repair.set_defaults(command=_stores, name="repair")

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
    vacuum.set_defaults(command=_stores, name="vacuum")
    _add_commands_of_one(commands)
    completion = commands.add_parser(
        "completion",
        help="print what completes commands in a shell",
        description="Print a script that completes commands, options and files: for bash, add "
        '`eval "$(storegate completion bash)"` to ~/.bashrc; for zsh, save it as _storegate in a folder of $fpath.',
    )
    completion.add_argument("shell", choices=SHELLS, help="the shell")
    _add_debug(completion)
    completion.set_defaults(command=_completion)
    return parser


def _add_commands_of_one(commands: Any) -> None:
    """Add the commands for one data_id; `commands` runs them."""

    def add(name: str, words: str, *, phase: str | None = None, json: bool = False) -> argparse.ArgumentParser:
        one: argparse.ArgumentParser = commands.add_parser(name, help=words, description=f"{words.capitalize()}.")
        one.add_argument("store", metavar="STORE", help="a directory or URL")
        one.add_argument("--data-id", metavar="ID", help="the data_id; not needed if there is only one")
        one.add_argument("--budget", metavar="SIZE", help="memory limit, as in 512MiB")
        _add_debug(one)
        if phase is not None:
            words = f"train, valid, test or all (default: {phase or 'the first with rows'})"
            one.add_argument("--phase", default=phase, help=words)
        if json:
            one.add_argument("--json", action="store_true", help="print JSON")
        one.set_defaults(command=_one, name=name)
        return one

    add("ls", "list the variables of each phase", json=True)
    head = add("head", "show the first rows of a phase", phase="", json=True)
    head.add_argument("-n", "--rows", type=_n_rows, default=5, metavar="N", help="rows (default: 5)")
    head.add_argument("--variables", metavar="A,B", help="these only")
    add("describe", "show statistics of each variable", phase="all", json=True)
    add("explain", "show how rows would be read", phase="", json=True)
    for name, words in (("read", "copy files into a store"), ("attach", "train on files where they are")):
        files = add(name, words, json=True)
        files.add_argument("files", nargs="+", metavar="FILE", help="files or patterns")
        files.add_argument("--variables", metavar="A,B", help="these only, or a name for a single array")
        files.add_argument("--phase", default="train", help="a phase, or shares as in 0.8,0.1,0.1 (default: train)")
        files.add_argument("--seed", type=int, metavar="N", help="shuffle the rows with this seed")
        files.add_argument("--format", metavar="NAME", help="the format, if the name of a file does not tell it")
    split = add("split", "deal all rows anew to train, valid and test", json=True)
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
    export.add_argument("--format", metavar="NAME", help="the format, if the suffix of the path does not tell it")
    export.add_argument("--variables", metavar="A,B", help="these only")
    check = add("check", "look for rows and groups that several phases have; status 1 if there are some", json=True)
    check.add_argument("--groups", metavar="A,B", help="variables that must be in one phase only")
    report = add("report", "write a page about a store: classes, histograms, drift, first rows, costs", json=True)
    report.add_argument("-o", "--output", metavar="FILE", help="the page to write; replaces an earlier one")
    report.add_argument("--check", action="store_true", help="look for rows that several phases have; one more pass")
    diff = add("diff", "show what differs between two versions", json=True)
    diff.add_argument("first", type=int, metavar="A", help="a version")
    diff.add_argument("second", type=int, metavar="B", help="another version")
    rollback = add("rollback", "restore an earlier version, as a new one", json=True)
    rollback.add_argument("version", type=int, metavar="VERSION", help="its number, see history")
    add("undo", "take the last change back", json=True)


def _number(text: str) -> float | int:
    try:
        return int(text)
    except ValueError:
        pass
    try:
        return float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is neither a fraction nor a number of rows") from None


def _n_rows(text: str) -> int:
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"{text!r} is no number of rows")
    return int(text)


def _add_store(command: argparse.ArgumentParser) -> None:
    command.add_argument("store", metavar="STORE", help="a directory or URL")
    command.add_argument("--data-id", metavar="ID", help="only this data_id")
    command.add_argument("--json", action="store_true", help="print JSON")
    _add_debug(command)


def _add_debug(command: argparse.ArgumentParser) -> None:
    command.add_argument("--debug", action="store_true", help="show where an error came from")


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


def _one(arguments: argparse.Namespace) -> int:
    from storegate import commands

    return _run(commands.run, arguments)


def _stores(arguments: argparse.Namespace) -> int:
    from storegate import store_commands

    return _run(store_commands.run, arguments)


def _run(command: Callable[[argparse.Namespace], int], arguments: argparse.Namespace) -> int:
    from storegate_engine.errors import StoreGateError, printable

    try:
        return command(arguments)
    except (StoreGateError, OSError, ValueError, ModuleNotFoundError) as err:
        raise CommandError(_with_options(printable(str(err)))) from err


def _with_options(message: str) -> str:
    """Return a message for callers in Python with the options of the command line.

    >>> _with_options("has 2 data_ids: a, b; give data_id=")
    'has 2 data_ids: a, b; give --data-id'
    """
    return re.sub(rf"\b({'|'.join(OPTIONS)})=", lambda found: OPTIONS[found[1]], message)


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
