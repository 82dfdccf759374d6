"""Command line of the benchmarks: ``python -m benchmarks core``, ``ingest``, ``shuffle``, ``narrow`` and others."""

from __future__ import annotations

import argparse
import importlib
import sys
from collections.abc import Sequence

OURS = ("benchmarks", "storegate", "storegate_engine")


def main(argv: Sequence[str] | None = None) -> int:
    """Run one benchmark and print its table."""
    arguments = _parser().parse_args(argv)
    try:
        # deferred on purpose: --help is immediate, and a benchmark imports no more than it measures
        benchmark = importlib.import_module(f"benchmarks.{arguments.benchmark}")
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] in OURS:
            raise
        raise SystemExit(f'{error.name} is not installed: python -m pip install -e ".[bench]"') from error
    benchmark.run(arguments)
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description="Measure StoreGate on this machine.")
    commands = parser.add_subparsers(dest="benchmark", required=True, metavar="BENCHMARK")

    common = argparse.ArgumentParser(add_help=False)
    common.add_argument("--markdown", action="store_true", help="print the table as Markdown")

    measured = argparse.ArgumentParser(add_help=False, parents=[common])
    measured.add_argument("--repeat", type=_positive, metavar="N", help="turns of every case (default: 5, quick: 2)")
    measured.add_argument("--quick", action="store_true", help="small sizes: minutes become seconds, ratios get rough")
    measured.add_argument("--directory", metavar="DIR", help="where to write (default: the temporary directory)")
    measured.add_argument("--only", metavar="A,B", help="run these cases only")

    core = commands.add_parser("core", parents=[measured], help="writing, reading, casting and opening a store")
    core.add_argument("--size", metavar="SIZE,SIZE", help="bytes of the arrays (default: 256MiB,1GiB)")

    commands.add_parser("ingest", parents=[measured], help="what counting smallest and largest values costs")

    shuffle = commands.add_parser("shuffle", parents=[measured], help="an exact shuffle of more than memory")
    shuffle.add_argument("--rows", type=_positive, metavar="N", help="rows of 1 kB (default: 4,000,000)")
    shuffle.add_argument("--budget", metavar="SIZE", help="memory limit (default: 1 GB, less for fewer rows)")
    _add_peers(shuffle, limit_s=180)
    shuffle.add_argument("--cluster", action="store_true", help="also on two worker processes that are killed in turn")

    narrow = commands.add_parser("narrow", parents=[measured], help="shuffled scalars beside numpy's indexing")
    narrow.add_argument("--rows", type=_positive, metavar="N", help="rows of 4 bytes (default: 20,000,000)")

    tables = commands.add_parser("tables", parents=[measured], help="a Parquet file into a store, beside a raw file")
    tables.add_argument("--rows", type=_positive, metavar="N", help="rows of ten columns (default: 1,000,000)")

    files = commands.add_parser("io", parents=[measured], help="files of other programs: attached, and copied")
    files.add_argument("--size", metavar="SIZE", help="bytes of the rows of each file or set of files (default: 1GiB)")

    scalings = commands.add_parser("scalings", parents=[measured], help="means and deviations, beside dask's")
    scalings.add_argument("--size", metavar="SIZE", help="bytes of the rows (default: 4GiB)")

    windows = commands.add_parser("windows", parents=[measured], help="windows over time, shuffled in blocks")
    windows.add_argument("--size", metavar="SIZE", help="bytes of the rows (default: 4GiB)")

    lists = commands.add_parser("lists", parents=[measured], help="sparse rows, and tokens of various lengths")
    lists.add_argument("--rows", type=_positive, metavar="N", help="sparse rows (default: 2,000,000)")

    objects = commands.add_parser("objects", parents=[measured], help="a store in an S3 server, beside raw GETs")
    objects.add_argument("--size", metavar="SIZE", help="bytes of the rows (default: 1GiB)")

    devices = commands.add_parser("devices", parents=[measured], help="batches for a GPU, beside training alone")
    devices.add_argument("--steps", type=_positive, metavar="N", help="steps of 32 MiB (default: 100)")

    batches = commands.add_parser(
        "batches", parents=[measured], help="batches for a training loop, shuffled every epoch"
    )
    batches.add_argument("--budget", default="600MB", metavar="SIZE", help="memory limit (default: 600MB)")
    _add_peers(batches, limit_s=60)

    ranks = commands.add_parser("ranks", parents=[measured], help="ranks that share a spill, beside one rank")
    ranks.add_argument("--size", metavar="SIZE", help="bytes of the rows (default: 4GiB)")

    scale = commands.add_parser("scale", parents=[common], help="plans of terabytes; runs none of them")
    scale.add_argument("--profile", action="store_true", help="print where the planning time goes")

    commands.add_parser("figure", help="draw the picture of the README from the tables in docs/benchmarks.md")
    return parser


def _add_peers(parser: argparse.ArgumentParser, *, limit_s: int) -> None:
    parser.add_argument("--peers", default="none", metavar="all|none|A,B", help="other software (default: none)")
    limit = f"time for each peer (default: {limit_s})"
    parser.add_argument("--limit", type=_positive, default=limit_s, metavar="SECONDS", help=limit)


def _positive(text: str) -> int:
    number = int(text.replace(",", "").replace("_", ""))
    if number < 1:
        raise argparse.ArgumentTypeError(f"{text} is not a positive number")
    return number


if __name__ == "__main__":
    sys.exit(main())
