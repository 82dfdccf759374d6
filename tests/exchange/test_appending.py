"""Files that are written past the page cache have the same bytes as others; where that is refused, they are written."""

from __future__ import annotations

import errno
import fcntl
import os

import dask
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from storegate_engine import errors
from storegate_engine.buffers import Workspace
from storegate_engine.exchange import appending
from storegate_engine.exchange.spill_files import PartFile, write_parts
from tests.exchange.spill_cases import PLAN

pytestmark = pytest.mark.skipif(not hasattr(os, "O_DIRECT"), reason="only Linux writes past the page cache")
DTYPES = ["u1", "<f4", "<c16", "S3", "<U5"]


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A directory of a plan, whose name is in checksums."""
    path = tmp_path_factory.mktemp("spill") / PLAN
    path.mkdir()
    return path


def rows_of(n_rows, width, dtype):
    content = np.random.default_rng(n_rows).integers(65, 90, n_rows * width * np.dtype(dtype).itemsize, "u1")
    if dtype[1] == "U":
        return np.array([f"{n:05d}" for n in range(n_rows * width)], dtype).reshape(n_rows, width)
    return content.view(dtype).reshape(n_rows, width)


def written(place, values, wanted, counts, past_cache, **options):
    path = place / "map-000000"
    write_parts(path, values, wanted, counts, Workspace(), past_cache=past_cache, **options)
    return path.read_bytes()


@given(
    st.integers(1, 3000),
    st.integers(1, 40),
    st.sampled_from(DTYPES),
    st.integers(1, 9),
    st.booleans(),
    st.integers(0, 2**32 - 1),
)
def test_bytes_are_the_same_past_the_cache(place, n_rows, width, dtype, n_parts, some, seed):
    rng = np.random.default_rng(seed)
    values = rows_of(n_rows, width, dtype)
    wanted = rng.permutation(n_rows)[: rng.integers(0, n_rows + 1) if some else n_rows]
    counts = np.bincount(rng.integers(0, n_parts, len(wanted)), minlength=n_parts)
    contents = [written(place, values, wanted, counts, past_cache) for past_cache in (True, False)]
    assert contents[0] == contents[1]
    ends = np.cumsum(counts)
    for part, end in enumerate(ends):
        out = np.empty((counts[part], width), dtype)
        with PartFile(place / "map-000000", part, n_parts, past_cache=True) as file:
            file.will_read(out.nbytes // max(1, len(out)))
            file.read(out)
        np.testing.assert_array_equal(out, values[wanted[end - counts[part] : end]])


@settings(max_examples=5)
@given(st.integers(2**22 - 5000, 2**22 + 5000), st.sampled_from([1, 3, 4096]))
def test_files_of_many_writes(place, n_rows, step):
    """The memory of one write is filled while another one waits for the disk."""
    values = np.resize(np.arange(4099).astype("u2").view("u1"), n_rows).reshape(-1, 1)
    counts = np.full(-(-n_rows // step // 1000), 1000 * step)
    counts[-1] -= counts.sum() - n_rows
    wanted = np.arange(n_rows)[::-1]
    contents = [written(place, values, wanted, counts, past_cache) for past_cache in (True, False)]
    assert contents[0] == contents[1]


@pytest.mark.parametrize("spare_nbytes", [10, 10**6])
@pytest.mark.parametrize("past_cache", [True, False])
def test_files_that_are_no_longer_needed_are_written_over(place, past_cache, spare_nbytes):
    values, counts = rows_of(5000, 7, "<f4"), np.array([1000, 4000])
    expected = written(place, values, np.arange(5000), counts, False)
    spare = place / "spare"
    spare.write_bytes(b"x" * spare_nbytes)
    assert written(place, values, np.arange(5000), counts, past_cache, spare=spare) == expected
    assert not spare.exists()


@pytest.mark.parametrize("when", ["asked", "written"])
def test_where_it_is_refused_files_are_written_through_the_cache(place, monkeypatch, when):
    """As by file systems in memory, or of some drivers."""
    monkeypatch.setattr(appending, "PACES", {})
    refused, write = [], appending.write_all
    set_flags = fcntl.fcntl

    def refuse(file, command, *flags):
        if command == fcntl.F_SETFL and flags[0] & os.O_DIRECT:
            refused.append(command)
            raise OSError(errno.EINVAL, "not here")
        return set_flags(file, command, *flags)

    def refuse_to_write(file, *contents):
        if set_flags(file, fcntl.F_GETFL) & os.O_DIRECT:
            refused.append(file)
            raise OSError(errno.EINVAL, "not here")
        write(file, *contents)

    if when == "asked":
        monkeypatch.setattr(fcntl, "fcntl", refuse)
    else:
        monkeypatch.setattr(appending, "write_all", refuse_to_write)
    values, counts = rows_of(50_000, 64, "<f4"), np.array([20_000, 30_000])
    found = [written(place, values, np.arange(50_000), counts, True) for _ in range(2)]
    assert len(refused) == 1, "it is not asked again"
    assert found == [written(place, values, np.arange(50_000), counts, False)] * 2


def test_a_failed_write_past_the_cache_says_so_and_leaves_nothing(tmp_path, monkeypatch):
    place = tmp_path / PLAN
    place.mkdir()

    def full(file, *contents):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(appending, "write_all", full)
    with pytest.raises(errors.SpillError, match="No space left on device; free space there"):
        written(place, rows_of(5000, 64, "<f4"), np.arange(5000), np.array([5000]), True)
    assert list(place.iterdir()) == []


def test_a_word_that_is_none_is_refused(place):
    with (
        dask.config.set({"storegate.direct-spill": "yes"}),
        pytest.raises(errors.ArgumentError, match="'auto', true or false, found 'yes'"),
    ):
        written(place, rows_of(10, 1, "u1"), np.arange(10), np.array([10]), None)
