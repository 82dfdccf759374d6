"""The command line: parses arguments and prints; never touches bytes."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence

from storegate import __version__

__all__ = ["main"]

DEMO_PACKAGES = frozenset({"awkward", "h5py", "km3net_testdata", "uproot"})


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line.

    Parameters
    ----------
    argv : sequence of str, optional
        The arguments after the program's name. Default: those of the process.

    Returns
    -------
    int
        The exit status: 0, or 2 after an error that has been printed.
    """
    parser = _parser()
    arguments = parser.parse_args(argv)
    command: Callable[[argparse.Namespace], None] = arguments.command
    try:
        command(arguments)
    except CommandError as err:
        print(f"storegate: error: {err}", file=sys.stderr)
        return 2
    return 0


class CommandError(Exception):
    """A command cannot go on; the message says why in one line."""


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="storegate", description="Sample tables for machine learning, larger than memory."
    )
    parser.add_argument("--version", action="version", version=f"storegate {__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    demo = commands.add_parser(
        "demo",
        help="build, shuffle and read a store of real data",
        description="Build a store of real neutrino-telescope data, and do with it what a training would.",
    )
    demo.add_argument("--directory", metavar="DIR", help="where to build the store (default: a new temporary one)")
    demo.add_argument("--budget", metavar="SIZE", help="memory to stay within, as in 64MiB")
    demo.set_defaults(command=_demo)

    info = commands.add_parser(
        "info", help="show what a store holds", description="Show what a store holds; reads no data."
    )
    info.add_argument("store", metavar="STORE", help="a directory or URL")
    info.add_argument("--data-id", metavar="ID", help="show only this data_id")
    info.set_defaults(command=_info)
    return parser


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


def _info(arguments: argparse.Namespace) -> None:
    from storegate import StoreGate
    from storegate_engine.errors import StoreGateError, near_match

    try:
        with StoreGate("zarr", {"output_dir": arguments.store, "mode": "r"}) as gate:
            known = gate.get_data_ids()
            wanted = known if arguments.data_id is None else [arguments.data_id]
            for data_id in wanted:
                if data_id not in known:
                    raise CommandError(
                        f"no data_id {data_id!r} in {arguments.store}{near_match(data_id, known)} "
                        f"(data_ids: {', '.join(known) or 'none'})"
                    )
                gate.set_data_id(data_id)
                gate.show_info()
    except (StoreGateError, OSError) as err:
        raise CommandError(str(err)) from err
