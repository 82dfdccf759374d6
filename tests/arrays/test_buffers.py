"""Bytes into files: all of them, in order, however many the system takes at a time."""

from __future__ import annotations

import io
import os
import tempfile

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from storegate_engine import buffers
from storegate_engine.buffers import write_all


@given(contents=st.lists(st.binary(max_size=20), max_size=30), most=st.integers(1, 50))
def test_all_bytes_are_written_in_order(contents: list[bytes], most: int) -> None:
    real = os.writev

    def some(descriptor: int, views: list[memoryview]) -> int:
        return real(descriptor, [memoryview(b"".join(views))[:most]])

    with pytest.MonkeyPatch.context() as patch, tempfile.TemporaryFile(buffering=0) as file:
        patch.setattr(buffers, "MAX_WRITTEN_TOGETHER", 7)
        patch.setattr(os, "writev", some)
        write_all(file, *[np.frombuffer(content, "u1") if at % 2 else content for at, content in enumerate(contents)])
        file.seek(0)
        assert file.read() == b"".join(contents)


def test_a_system_that_writes_one_piece_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(os, "writev")
    file = io.BytesIO()
    write_all(file, b"ab", b"", np.frombuffer(b"cd", "u1"))
    assert file.getvalue() == b"abcd"
