"""Whatever a call does to a store, it opens afterwards; and one that does not open can be led back."""

from __future__ import annotations

import dask.array as da
import numpy as np
import pytest
import zarr

from storegate import StoreGate, cli
from storegate_engine import documents
from storegate_engine.arrays import segments
from storegate_engine.errors import CorruptStoreError, StoreGateError, UnreadableStateError
from storegate_engine.store.logs import StoredLog
from storegate_engine.store.manifests import parse_manifest
from tests.store.reopening_cases import TEXT, opened


def require_opens(tmp_path, wanted, name="x"):
    with opened(tmp_path) as gate:
        got = gate.get_data(name)
        assert got.dtype == wanted.dtype
        assert got.tolist() == wanted.tolist()
        assert not gate.verify().problems
        return gate.table.variable("train", name).pieces[0].array


class TestText:
    @pytest.mark.parametrize("width", [513, 20_000])
    def test_blocks_that_widen(self, tmp_path, width):
        blocks = [np.array(["a"]), np.array(["b" * width]), np.array(["c"])]
        with opened(tmp_path) as gate:
            gate.add_data("x", iter(blocks))
        array = require_opens(tmp_path, np.concatenate(blocks))
        assert array.layout.chunk_rows * array.dtype.itemsize <= 64 * 2**20

    def test_bytes_that_widen(self, tmp_path):
        blocks = [np.array([b"\xff"]), np.array([b"\xfe" * 5000])]
        with opened(tmp_path) as gate:
            gate.add_data("x", iter(blocks))
        require_opens(tmp_path, np.concatenate(blocks))

    @pytest.mark.slow
    @pytest.mark.parametrize("how", ["iterator", "array", "dask"])
    def test_chunk_rows_follow_the_bytes_of_text(self, tmp_path, how):
        """8,192 rows of 9 kB in one chunk would be more than any chunk that is read."""
        rows = np.array([f"{number:04d}" * 2250 for number in range(1200)], TEXT)
        data = {"array": rows, "dask": da.from_array(rows, chunks=200), "iterator": iter(np.split(rows, 6))}[how]
        with opened(tmp_path) as gate:
            gate.add_data("x", data)
        array = require_opens(tmp_path, rows)
        assert array.layout.chunk_rows * 9004 <= 2 * segments.TEXT_CHUNK_NBYTES
        assert array.text.nbytes == 1200 * 9004
        assert array.text.largest_nbytes == 9004
        with opened(tmp_path) as gate:
            gate.shuffle(seed=1)
            gate.compact()
        array = require_opens(tmp_path, rows[np.random.RandomState(1).permutation(1200)])
        assert array.layout.chunk_rows * 9004 <= 2 * segments.TEXT_CHUNK_NBYTES
        assert array.text.largest_nbytes == 9004

    def test_long_texts_after_short_ones(self, tmp_path):
        """The rows before are written again, with fewer to a chunk; nothing of the first try is left."""
        blocks = [np.array(["a"] * 1000, TEXT), np.array(["é" * 3 * 10**5] * 3, TEXT), np.array(["b"] * 10, TEXT)]
        with opened(tmp_path) as gate:
            gate.add_data(["x", "y"], [iter(blocks), np.arange(1013)])
            gate.shuffle(seed=2)
            gate.compact()
        wanted = np.concatenate(blocks)[np.random.RandomState(2).permutation(1013)]
        array = require_opens(tmp_path, wanted)
        assert array.layout.chunk_rows * array.text.largest_nbytes <= 64 * 2**20
        with opened(tmp_path) as gate:
            gate.vacuum(older_than=0)
            assert gate.get_data("x").tolist() == wanted.tolist()

    def test_rows_of_a_chunk_that_were_asked_for_stay(self, tmp_path):
        rows = np.array(["a" * 10**7] * 8, TEXT)
        with opened(tmp_path, chunk=8, budget="8GiB") as gate, pytest.raises(ValueError, match=r"'x'.*chunk"):
            gate.add_data("x", rows)
        with opened(tmp_path) as gate:
            assert gate.get_var_names() == []
            gate.add_data("x", rows)
        require_opens(tmp_path, rows)

    def test_a_text_that_no_chunk_holds_is_refused(self, tmp_path):
        with opened(tmp_path, budget="8GiB") as gate:
            with pytest.raises(ValueError, match="split its texts"):
                gate.add_data("x", np.array(["a" * (65 * 2**20)], TEXT))
            assert gate.get_var_names() == []

    def test_stores_without_the_bytes_of_text_open(self, tmp_path):
        """Earlier versions did not count them."""
        with opened(tmp_path) as gate:
            gate.add_data("x", np.array(["a", "bc"], TEXT))
            stored = gate.table.variable("train", "x").pieces[0].array
            document, parent = stored.to_json(), gate.repository().segments
            assert document.pop("text_nbytes") == [11, 6]
            old = type(stored).from_json(document, parent)
            assert old.text is None
            for bad in ([1], [1, -1], [1, True], "11", [1, 2.0], None):
                with pytest.raises(CorruptStoreError):
                    type(stored).from_json({**document, "text_nbytes": bad}, parent)


@pytest.mark.parametrize(
    ("shape", "error"),
    [
        ((5, -2), ValueError),
        ((-1,), ValueError),
        ((2**40, 2**40), ValueError),
        ((3, 2**31), ValueError),
        ((3, *(1 for _ in range(40))), ValueError),
        ((20, 1.5), TypeError),
        ((True, 2), TypeError),
        ("20", TypeError),
        ((), ValueError),
    ],
    ids=str,
)
def test_bad_shapes_are_refused(gate, shape, error):
    version = gate.repository().version
    with pytest.raises(error, match=r"shape|size|row|dimensions") as caught:
        gate.create_empty("z", shape)
    assert isinstance(caught.value, StoreGateError)
    assert gate.repository().version == version


def test_sizes_of_numpy_are_sizes(gate):
    gate.create_empty("z", (np.int64(3), np.int32(2)))
    assert gate.get_data("z").shape == (3, 2)


@pytest.mark.parametrize("dtype", ["U20000000", "S99999999"])
def test_widths_that_no_store_names_are_refused(gate, dtype):
    gate.add_data("old", [1])
    for call in (lambda: gate.create_empty("old2", (1,), dtype=dtype), lambda: gate.astype("old", dtype)):
        with pytest.raises(TypeError, match="StringDType"):
            call()


class TestCommits:
    @pytest.mark.parametrize("limit", ["MAX_VALUES", "MAX_NBYTES"])
    def test_a_state_that_nobody_reads_is_not_put(self, tmp_path, monkeypatch, limit):
        with opened(tmp_path) as gate:
            gate.add_data("x", np.arange(2000))
            for _ in range(3):
                gate["train"]["x"][np.arange(0, 400, 2)] = np.zeros(200, int)
            version, kept = gate.repository().version, gate.get_data("x")
            files = sorted((tmp_path / "store").rglob("*"))
            content = (tmp_path / "store" / "a" / StoredLog.key(version)).read_bytes()
            size = sum(map(content.count, (b",", b"[", b"{"))) if limit == "MAX_VALUES" else len(content)
            monkeypatch.setattr(documents, limit, size + size // 4)
            for step in range(200):
                try:
                    gate.add_data(f"y{step}", [1, 2])
                except UnreadableStateError as err:
                    refused = err
                    break
                version, kept = gate.repository().version, gate.get_data("x")
                files = sorted((tmp_path / "store").rglob("*"))
            assert "compact" in str(refused)
            assert isinstance(refused, (OSError, ValueError))
            assert gate.repository().version == version
            assert sorted((tmp_path / "store").rglob("*")) == files
            with opened(tmp_path) as again:
                np.testing.assert_array_equal(again.get_data("x"), kept)
            gate.compact()  # the remedy that the error names
            gate.add_data("z", [1, 2])
            with opened(tmp_path) as again:
                np.testing.assert_array_equal(again.get_data("x"), kept)
                assert again.get_data("z").tolist() == [1, 2]

    def test_metadata_that_no_reader_takes_are_not_put(self, tmp_path, monkeypatch):
        create = zarr.create_array
        with opened(tmp_path) as gate:
            gate.add_data("x", [1, 2])
            monkeypatch.setattr(
                zarr, "create_array", lambda *args, **kwargs: create(*args, **{**kwargs, "dtype": "i2"})
            )
            with pytest.raises(UnreadableStateError, match="data_type"):
                gate.add_data("unreadable", [1, 2])  # metadata of a name that other tests use may be at hand
        with opened(tmp_path) as gate:
            assert gate.get_var_names() == ["x"]


@pytest.fixture
def broken(tmp_path):
    """A store whose two newest versions do not open; the last that does holds 0, 1, 2."""
    with opened(tmp_path) as gate:
        gate.add_data("x", [0, 1, 2])
        log = gate.repository().log
        for version, change in ((2, {"arrays": []}), (3, None)):
            gate.add_data("x", [version])
            path = tmp_path / "store" / "a" / log.key(version)
            manifest = parse_manifest(path.read_bytes(), version, "")
            content = b"{" if change is None else type(manifest)(version, {**manifest.state, **change}).to_bytes()
            path.chmod(0o644)
            path.write_bytes(content)
    return tmp_path


class TestRepair:
    def test_the_error_names_the_last_version_that_opens(self, broken):
        with pytest.raises(CorruptStoreError, match=r"version 1 can be opened.*version=1.*repair"):
            opened(broken)
        with StoreGate("zarr", {"output_dir": broken / "store"}, data_id="a", version=1) as gate:
            assert gate.get_data("x").tolist() == [0, 1, 2]

    @pytest.mark.parametrize("how", ["method", "command"])
    def test_the_last_version_that_opens_is_the_newest_again(self, broken, how, capsys):
        before = {path: path.read_bytes() for path in (broken / "store").rglob("*") if path.is_file()}
        if how == "method":
            with StoreGate("zarr", {"output_dir": broken / "store"}) as gate:
                assert gate.repair("a") == 1
                assert gate.repair("a") is None
        else:
            assert cli.main(["repair", str(broken / "store"), "--data-id", "a"]) == 0
            assert "version 1 is the newest again" in capsys.readouterr().out
            assert cli.main(["repair", str(broken / "store")]) == 0
            assert "nothing to repair" in capsys.readouterr().out
        assert {path: path.read_bytes() for path in before} == before
        with opened(broken) as gate:
            assert gate.repository().version == 4
            assert gate.get_data("x").tolist() == [0, 1, 2]
            gate.add_data("x", [3])
        with opened(broken) as gate:
            assert gate.get_data("x").tolist() == [0, 1, 2, 3]

    def test_what_cannot_be_repaired_says_so(self, broken):
        with StoreGate("zarr", {"output_dir": broken / "store", "mode": "r"}) as gate, pytest.raises(PermissionError):
            gate.repair("a")
        with StoreGate("zarr", {"output_dir": broken / "store"}) as gate:
            with pytest.raises(ValueError, match="'b'"):
                gate.repair("b")
            first = broken / "store" / "a" / StoredLog.key(1)
            first.chmod(0o644)
            first.write_bytes(b"")
            with pytest.raises(CorruptStoreError, match="no version"):
                gate.repair("a")
        with pytest.raises(ValueError, match="memory"):
            StoreGate().repair("a")
