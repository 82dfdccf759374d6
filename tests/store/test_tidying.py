"""Tidying: after a commit, over one state of the table, whatever others commit meanwhile."""

from __future__ import annotations

import contextlib

import numpy as np

from storegate import StoreGate
from storegate_engine.errors import ConflictError
from storegate_engine.store.stored import StoredRepository


def test_variables_that_another_writer_removes_at_any_look_are_left_alone(tmp_path, monkeypatch):
    """The change is committed: it must not look as if it had failed."""
    table = StoredRepository.table.fget
    for moment in range(1, 100):
        place = {"output_dir": tmp_path / str(moment)}
        mine, other = (StoreGate("zarr", place, data_id="a") for _ in range(2))
        mine.add_data("x", np.arange(3))
        looks = 0

        def looked_at(repository, mine=mine, other=other, moment=moment):
            nonlocal looks
            if repository is mine.repository():
                looks += 1
                if looks == moment:
                    other.clear_data()
            return table(repository)

        with monkeypatch.context() as patch, contextlib.suppress(ConflictError):
            patch.setattr(StoredRepository, "table", property(looked_at))
            mine.add_data("x", np.arange(3), do_compile=False)
        if looks < moment:  # there were no more
            return
        assert mine.verify().problems == ()
    raise AssertionError("a change looks at the table a hundred times")
