"""Training on attached files: ranks, resuming, kills, forks and clusters as on stored rows; files that change."""

from __future__ import annotations

import itertools
import os
import signal

import dask
import h5py
import numpy as np
import pytest

from storegate import StoreGate, errors
from storegate_engine.arrays import ForeignArray, byte_ranges, foreign
from tests.listings import nbytes_below
from tests.streams.test_killed_streams import run_until_killed

N = 6000
X = np.arange(N)
CUTS = [0, 1700, 1700, 3001, 4200, N]
BATCH = 50
SPILLED = {"shuffle": True, "budget": "300KB"}


@pytest.fixture
def files(tmp_path):
    (tmp_path / "files").mkdir()
    for at, (lo, hi) in enumerate(itertools.pairwise(CUTS)):
        with h5py.File(tmp_path / "files" / f"{at}.h5", "w") as file:
            options = {"chunks": (200,), "compression": "gzip"} if at % 2 and hi > lo else {}
            file.create_dataset("x", data=X[lo:hi], **options)
    return tmp_path / "files"


@pytest.fixture
def gate(tmp_path, files):
    with StoreGate("zarr", {"output_dir": tmp_path / "store"}, data_id="a") as made:
        made.attach(files / "*.h5")
        yield made


@pytest.fixture
def native(tmp_path):
    with StoreGate("zarr", {"output_dir": tmp_path / "native", "chunk": 200}, data_id="a") as made:
        made.add_data("x", X)
        yield made


@pytest.fixture
def scratch(tmp_path):
    with dask.config.set({"storegate.scratch-directory": tmp_path / "scratch", "storegate.shuffle": "exchange"}):
        yield tmp_path / "scratch"


class TestKills:
    @pytest.mark.slow
    @pytest.mark.parametrize(
        "options",
        [SPILLED, pytest.param({"shuffle": "blocks", "block_rows": 20, "buffer_blocks": 70}, marks=pytest.mark.slow)],
    )
    def test_killed_ranks_go_on_with_other_ranks(self, gate, native, scratch, options):
        state, steps = None, []
        for world, n_steps in [(2, 17), (3, 40), (1, 70), (2, 60)]:
            found, state = run_until_killed(gate["train"]["x"], options, state, world, n_steps)
            steps += found
        per_epoch = N // BATCH
        with native["train"]["x"].batches(BATCH, seed=3, **options) as whole:
            for epoch in range(len(steps) // per_epoch):
                expected = [sorted(batch.tolist()) for batch in whole]
                assert steps[epoch * per_epoch : (epoch + 1) * per_epoch] == expected
                assert sorted(itertools.chain(*expected)) == X.tolist()
        assert not scratch.exists(), "what killed processes had spilled goes with the next one"

    @pytest.mark.parametrize("change", ["compact", "batches"])
    def test_a_process_killed_in_an_exchange_leaves_nothing(self, tmp_path, gate, scratch, monkeypatch, change):
        """The process kills itself in a task that reads rows, while those of others are spilled."""

        def run(gate):
            if change == "compact":
                gate.shuffle("train", seed=1)
                gate.compact()
            return np.concatenate(list(gate["train"]["x"].batches(BATCH, seed=5, **SPILLED)))

        child = os.fork()
        if not child:
            try:
                reads, read = itertools.count(1), foreign.read_source

                def killed(*args):
                    if next(reads) == 3:
                        os.kill(os.getpid(), signal.SIGKILL)
                    read(*args)

                monkeypatch.setattr(foreign, "read_source", killed)
                run(gate)
            finally:
                os._exit(1)
        assert os.waitpid(child, 0)[1] == signal.SIGKILL
        assert nbytes_below(scratch)
        rows = run(gate)
        assert sorted(rows.tolist()) == X.tolist()
        assert not scratch.exists()
        assert not gate.verify().problems


class TestProcesses:
    def test_forked_children_read_while_the_parent_does(self, gate):
        view, expected = gate["train"]["x"], int(X.sum())
        view[:1000]  # files are open before
        pipes = []
        for at in range(3):
            reading, writing = os.pipe()
            if not os.fork():
                batches = view.batches(BATCH, seed=at, shuffle=[True, False, "blocks"][at])
                os.write(writing, str(sum(int(batch.sum()) for batch in batches)).encode())
                os._exit(0)
            os.close(writing)
            pipes.append(reading)
        assert int(view[:].sum()) == expected
        for reading in pipes:
            assert int(os.read(reading, 100)) == expected
            os.close(reading)
            os.wait()

    @pytest.mark.slow
    def test_the_workers_of_a_cluster_read_them(self, gate, cluster):
        gate.shuffle("train", seed=2)
        order = np.random.RandomState(2).permutation(N)
        dataset = gate["train"].to_xarray()
        np.testing.assert_array_equal(dataset.x.compute().values, order)
        assert int(dataset.x.sum()) == X.sum()
        gate.compact()
        np.testing.assert_array_equal(gate["train"]["x"][:], order)
        assert gate.table["train"]["x"].pieces[0].array.sources is None


class TestChanges:
    @pytest.mark.filterwarnings("ignore:shuffle='blocks'")  # few blocks, so that there are many loads
    @pytest.mark.parametrize("shuffle", [False, "blocks"])
    @pytest.mark.parametrize("change", ["truncated", "replaced", "overwritten", "removed"])
    def test_a_file_that_changes_between_batches_is_named(self, gate, files, change, shuffle):
        few = {"block_rows": 10, "buffer_blocks": 70, "seed": 1} if shuffle else {"budget": "200KB"}
        options = {"shuffle": shuffle, "prefetch": 0, **few}
        batches = iter(gate["train"]["x"].batches(BATCH, **options))
        seen = [next(batches)]
        path = files / "4.h5"
        match change:
            case "truncated":
                os.truncate(path, path.stat().st_size - 1000)
            case "replaced":  # by one of the same size, of the same time
                (files / "new").write_bytes(path.read_bytes()[:-8] + bytes(8))
                os.utime(files / "new", ns=(0, path.stat().st_mtime_ns + 1))
                (files / "new").replace(path)
            case "overwritten":
                with path.open("r+b") as file:
                    file.seek(-100, 2)
                    file.write(bytes(100))
            case "removed":
                path.unlink()
        with pytest.raises(errors.SourceChangedError, match=r"4\.h5 is not as it was .* restore it, or attach it anew"):
            seen += list(batches)
        rows = np.concatenate(seen)
        assert len(set(rows.tolist())) == len(rows)
        assert set(rows.tolist()) <= set(X.tolist()), "no row of the changed file is made up"

    def test_a_file_that_changes_while_it_is_read_is_named(self, gate, files, monkeypatch):
        real = byte_ranges.RowRange.read_spans

        def changed(*args):
            real(*args)
            os.utime(files / "0.h5")

        monkeypatch.setattr(byte_ranges.RowRange, "read_spans", changed)
        with pytest.raises(errors.SourceChangedError, match=r"0\.h5"):
            gate["train"]["x"][:100]

    def test_a_restored_file_is_read_again(self, gate, files):
        path = files / "0.h5"
        before, content = path.stat(), path.read_bytes()
        gate["train"]["x"][:10]
        path.unlink()
        with pytest.raises(errors.SourceChangedError):
            gate["train"]["x"][:10]
        path.write_bytes(content)
        os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
        np.testing.assert_array_equal(gate["train"]["x"][:10], X[:10])


class TestNumbers:
    @pytest.mark.parametrize("phase", ["train", pytest.param((0.5, 0.3, 0.2), marks=pytest.mark.slow)])
    @pytest.mark.parametrize("backend", [pytest.param("zarr", marks=pytest.mark.slow), "numpy"])
    def test_sixty_files_are_not_copied_because_they_are_many(self, tmp_path, backend, phase):
        """Variables of many pieces are merged, which copies rows; those of attached files stay where they are."""
        for at in range(60):
            np.save(tmp_path / f"{at}.npy", np.arange(100 * at, 100 * at + 100))
        with StoreGate(backend, {"output_dir": tmp_path / "store"} if backend == "zarr" else {}, data_id="a") as gate:
            for at in range(60):
                gate.attach(tmp_path / f"{at}.npy", "x", phase=phase)
            gate.shuffle("train", seed=1)
            arrays = [piece.array for piece in gate.table["train"]["x"].pieces]
            assert {type(array) for array in arrays} == {ForeignArray}
            share = 100 if phase == "train" else 50
            rows = (np.arange(60)[:, None] * 100 + np.arange(share)).ravel()
            expected = rows[np.random.RandomState(1).permutation(len(rows))]
            np.testing.assert_array_equal(gate["train"]["x"][:], expected)
            for at in range(60):  # rows of the store itself are merged as ever, and parted by attached ones
                gate.add_data("x", [6000 + at])
            gate.attach(tmp_path / "3.npy", "x")
            pieces = gate.table["train"]["x"].pieces
            assert len(pieces) < 60 + 60
            assert sum(piece.array.sources is not None for piece in pieces) == 61
            added = [*range(6000, 6060), *range(300, 400)]
            np.testing.assert_array_equal(gate["train"]["x"][:], [*expected, *added])

    def test_a_uniform_epoch_reads_each_row_of_the_files_once(self, gate, scratch, monkeypatch):
        """It scatters from the files to the spill; nothing is copied before."""
        times = np.zeros(N, int)
        real = foreign.read_source

        def counted(inside, source, spans, out):
            first = CUTS[int(source.path[-4])]
            for start, stop, _ in spans:
                times[first + start : first + stop] += 1
            real(inside, source, spans, out)

        monkeypatch.setattr(foreign, "read_source", counted)
        with gate["train"]["x"].batches(BATCH, seed=5, **SPILLED) as stream:
            batches = list(stream)
        assert sorted(np.concatenate(batches).tolist()) == X.tolist()
        assert set(times.tolist()) <= {1, 2}, "once for this epoch, and perhaps for the next one"
        assert [change.operation for change in gate.history()] == ["attach"]


@pytest.mark.parametrize("compression", [None, "gzip", "lzf"])
def test_a_closed_gate_leaves_files_to_others(tmp_path, compression):
    chunks = None if compression is None else (10,)
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file.create_dataset("x", data=np.arange(100.0), chunks=chunks, compression=compression)
    with StoreGate("zarr", {"output_dir": tmp_path / "s"}, data_id="a") as gate:
        gate.attach(tmp_path / "a.h5")
        np.testing.assert_array_equal(gate["train"]["x"][:], np.arange(100.0))
        list(gate["train"]["x"].batches(7))
    with h5py.File(tmp_path / "a.h5", "a") as file:
        file["y"] = 3
