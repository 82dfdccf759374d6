"""Lists and sparse rows are lazy in every form of dask arrays: their blocks, selections, and datasets of them."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import sparse

from storegate import StoreGate
from storegate_engine import budget
from tests.gate.list_cases import require_lists

N_ROWS = 400
LISTS = [list(range(at % 7)) for at in range(N_ROWS)]
MATRIX = sparse.random_array((N_ROWS, 9), density=0.2, format="csr", rng=np.random.default_rng(0), dtype="f4")
ORDER = np.random.RandomState(5).permutation(N_ROWS)


@pytest.fixture(params=["numpy", "zarr"])
def data(request, tmp_path, monkeypatch):
    """A Dataset of shuffled lists and sparse rows in several blocks, and the rows of another variable."""
    monkeypatch.setattr(budget, "BLOCK_NBYTES", 2**12)
    args = {"chunk": 50, "output_dir": tmp_path / "store"} if request.param == "zarr" else {"chunk": 50}
    with StoreGate(request.param, args, data_id="a") as gate:
        gate.add_data({"t": LISTS, "m": MATRIX, "row": np.arange(N_ROWS)})
        gate.compile()
        gate.shuffle("train", seed=5)
        yield gate["train"].to_xarray()


def test_blocks_are_computed_when_they_are_asked_for(data):
    assert len(data.m.chunks[0]) > 1
    require_lists(data.t.values, [LISTS[at] for at in ORDER])
    np.testing.assert_array_equal(data.m.values, MATRIX.toarray()[ORDER])


def test_selections_of_them_are_lazy(data):
    part = data.isel(sample=slice(115, 250, 3))
    assert part.t.chunks is not None
    assert part.m.chunks is not None
    rows = ORDER[115:250:3]
    require_lists(part.t.values, [LISTS[at] for at in rows])
    np.testing.assert_array_equal(part.m.values, MATRIX.toarray()[rows])
