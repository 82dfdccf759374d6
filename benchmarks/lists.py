"""Lists: sparse rows and tokens in batches, beside scipy in memory and rows of one length; sizes beside AnnData's."""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import disk
from benchmarks.harness import Line, Table, Turns, compared, interleave, isolated
from storegate import Ragged, StoreGate, pad

PER_ROW, COLUMNS, BATCH = 10, 20_000, 1024
SHORTEST, LONGEST = 64, 512
"""Tokens of a row."""
ROWS_A_SECOND = 2_000_000
"""Sparse rows that batches should have."""
GENES = 10_000
"""Columns of the matrix of counts whose size is compared."""
Array = np.ndarray[Any, Any]


def run(arguments: argparse.Namespace) -> None:
    """Print the table."""
    n_rows = arguments.rows or (20_000 if arguments.quick else 2_000_000)
    repeat = arguments.repeat or (2 if arguments.quick else 5)
    table = Table(f"{n_rows:,} sparse rows of {PER_ROW} values, and tokens", markdown=arguments.markdown)
    with disk.workplace(arguments.directory) as at:
        table.add(_lines(at, n_rows, repeat))
        if find_spec("anndata"):
            table.add(_sizes(at, 500 if arguments.quick else 5000))


def _lines(at: Path, n_rows: int, repeat: int) -> Iterator[Line]:
    outcome = isolated(sparse_blocks, str(at), n_rows, repeat)
    target = f"≤ {n_rows / ROWS_A_SECOND:.2f} s"
    yield compared("sparse rows, shuffled in blocks", outcome, "blocks", "scipy", target, "matrix[rows] in memory")
    outcome = isolated(padded_tokens, str(at), n_rows // 10, repeat)
    yield compared("padded tokens, in blocks", outcome, "padded", "dense", "≤ 2.0", "rows of the same bytes")
    yield compared("padded, by length, in order", outcome, "by length", "dense", "", "rows of the same bytes")


def _sizes(at: Path, n_cells: int) -> Iterator[Line]:
    outcome = isolated(sizes_of_counts, str(at), n_cells)
    if outcome.value is None:
        yield Line("size of counts", outcome.error)
        return
    nbytes: dict[str, int] = outcome.value
    for kind, against, target in (("lz4", "h5ad", "< 1"), ("lz4", "h5ad, gzip", ""), ("zstd", "h5ad, gzip", "< 1")):
        ours, theirs = nbytes[kind], nbytes[against]
        case = f"size of counts of {n_cells:,} cells, {kind}"
        yield Line(case, f"{ours / 1e6:.1f} MB", f"{against} {theirs / 1e6:.1f} MB", ours / theirs, target)


def sizes_of_counts(directory: str, n_cells: int) -> dict[str, int]:
    """Return the bytes of the files of a matrix of counts, as StoreGate and as AnnData write it."""
    import anndata

    counts = counts_of_cells(n_cells)
    found = {}
    for compressor in ("lz4", "zstd"):
        path = Path(directory, f"counts-{compressor}.zarr")
        with StoreGate("zarr", {"output_dir": path, "compressor": compressor}, data_id="bench") as gate:
            gate.add_data("x", counts)
        found[compressor] = sum(file.stat().st_size for file in disk.files_of(path))
    for name, compression in (("h5ad", None), ("h5ad, gzip", "gzip")):
        path = Path(directory, f"counts-{compression}.h5ad")
        anndata.AnnData(counts).write_h5ad(path, compression=compression)
        found[name] = path.stat().st_size
    return found


def counts_of_cells(n_cells: int) -> Any:
    """Return negative binomial counts of genes that are read very unequally often: most are 0, and of others most 1."""
    from scipy import sparse

    rng = np.random.default_rng(0)
    means = np.exp(rng.normal(-3.5, 2.2, GENES))
    blocks = []
    for lo in range(0, n_cells, 500):
        depths = np.exp(rng.normal(0, 0.4, (min(500, n_cells - lo), 1)))
        rates = depths * means * rng.gamma(2.0, 0.5, (len(depths), GENES))
        blocks.append(sparse.csr_array(rng.poisson(rates).astype("f4")))
    return sparse.vstack(blocks, format="csr")


def written(directory: str, n_rows: int) -> Path:
    """Write counts at random places, as of cells and genes, where they are not there."""
    path = Path(directory, f"sparse-{n_rows}.zarr")
    if not path.exists():
        with StoreGate("zarr", {"output_dir": path}, data_id="bench") as gate:
            gate.add_data("x", sparse_rows(n_rows))
            gate.compile()
    return path


def sparse_rows(n_rows: int) -> Ragged:
    """Return counts of random columns."""
    rng = np.random.default_rng(0)
    lengths = rng.poisson(PER_ROW, n_rows)
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    columns = rng.integers(0, COLUMNS, offsets[-1], dtype=np.int32)
    places = np.lexsort((columns, np.repeat(np.arange(n_rows), lengths)))
    return Ragged(offsets, (1 + rng.poisson(1, offsets[-1])).astype("f4"), columns[places], COLUMNS)


def consume(batches: Iterable[Any]) -> None:
    """Take all batches, and touch each."""
    for batch in batches:
        assert batch.shape[0]


def sparse_blocks(directory: str, n_rows: int, repeat: int) -> Turns:
    """Batches of sparse rows from storage, and rows at random of a matrix in memory."""
    matrix = sparse_rows(n_rows).to_csr()

    def scipy() -> None:
        order = np.random.default_rng(1).permutation(n_rows)
        consume(matrix[order[lo : lo + BATCH]] for lo in range(0, n_rows, BATCH))

    with StoreGate.open(written(directory, n_rows)) as gate:
        stream = gate["train"]["x"].batches(BATCH, shuffle="blocks", seed=1)
        return interleave({"scipy": scipy, "blocks": lambda: consume(stream)}, repeat=repeat)


def padded_tokens(directory: str, n_rows: int, repeat: int) -> Turns:
    """Batches of padded tokens, and of rows of one length with as many bytes in all."""
    rng = np.random.default_rng(0)
    lengths = rng.integers(SHORTEST, LONGEST + 1, n_rows)
    tokens = Ragged(np.concatenate([[0], np.cumsum(lengths)]), rng.integers(1, 2**31, lengths.sum(), dtype=np.int32))
    path = Path(directory, f"tokens-{n_rows}.zarr")
    with StoreGate("zarr", {"output_dir": path}, data_id="bench") as gate:
        if "tokens" not in gate.variables:
            dense = rng.integers(1, 2**31, (n_rows, LONGEST), dtype=np.int32)  # batches are padded to the longest
            gate.add_data({"tokens": tokens, "dense": dense})
            gate.compile()
        view = gate["train"]
        padded = view["tokens"].batches(BATCH, shuffle="blocks", seed=1, collate=pad(0, length=LONGEST))
        by_length = view["tokens"].batches(BATCH, shuffle=False, bucket_by="length", collate=pad(0, multiple_of=8))
        same = view["dense"].batches(BATCH, shuffle="blocks", seed=1)
        return interleave(
            {
                "dense": lambda: consume(same),
                "padded": lambda: consume(padded),
                "by length": lambda: consume(by_length),
            },
            repeat=repeat,
        )
