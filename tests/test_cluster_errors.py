"""Errors on a cluster: a call is done whole or not at all, and says what happened in its own words."""

from __future__ import annotations

import numpy as np
import pytest

from storegate import StoreGate
from storegate_engine.errors import CorruptStoreError

ROWS = 20_000


def flip_a_byte(store, name):
    """Damage a shard of a variable, in its middle."""
    path = max((at for at in store.rglob(f"{name}/c/**/*") if at.is_file()), key=lambda at: at.stat().st_size)
    content = path.read_bytes()
    middle = len(content) // 2
    path.write_bytes(content[:middle] + bytes([content[middle] ^ 0x10]) + content[middle + 1 :])


@pytest.fixture
def hybrid(tmp_path):
    with StoreGate("hybrid", {"output_dir": tmp_path / "store", "budget": "64MiB"}, "test_id") as gate:
        yield gate


@pytest.mark.parametrize("shuffle", [None, 3])
def test_rows_that_cannot_be_read_are_not_committed(cluster, hybrid, tmp_path, shuffle):
    rows = np.random.default_rng(0).random((ROWS, 16), dtype="f4")
    hybrid.add_data("good", rows)
    hybrid.to_memory("good")
    hybrid.delete_data("good")
    hybrid.add_data("x", rows, shuffle=shuffle)
    flip_a_byte(tmp_path / "store", "x")
    with pytest.raises(CorruptStoreError):
        hybrid.to_memory("x", output_var_names="good")
    hybrid.set_mode("numpy")
    np.testing.assert_array_equal(hybrid.get_data("good"), rows)  # it was not replaced
    hybrid.set_mode("zarr")
    with pytest.raises(CorruptStoreError):
        hybrid.to_memory("x", output_var_names="bad")
    hybrid.set_mode("numpy")
    assert hybrid.get_var_names() == ["good"]
    hybrid.set_mode("zarr")
    with pytest.raises(CorruptStoreError):
        hybrid.add_data("y", hybrid["train"]["x"].data)
