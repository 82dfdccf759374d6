"""Stores, columns and commands that cannot be: an error that says so, and nothing is made or changed."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from storegate import StoreGate, cli
from storegate_engine.errors import StoreGateError, WriteError
from tests.gate.bad_cases import BACKENDS, SURROGATE, files_in

NOBODY = {
    "endpoint": "http://127.0.0.1:9",
    "client_options": {"allow_http": True},
    "access_key_id": "a",
    "secret_access_key": "b",
    "region": "us-east-1",
    "retry_config": {"max_retries": 0},
}
"""Options of an S3 server that is not there."""
OPENINGS: dict[str, tuple[Callable[[Path], Any], type[Exception]]] = {
    "directory of a number": (lambda p: StoreGate("zarr", {"output_dir": 3}), TypeError),
    "directory of bytes": (lambda p: StoreGate("zarr", {"output_dir": bytes(p / "s")}), TypeError),
    "directory of a list": (lambda p: StoreGate("hybrid", {"output_dir": [str(p)]}), TypeError),
    "directory of no characters": (lambda p: StoreGate("zarr", {"output_dir": ""}), ValueError),
    "directory of a zero": (lambda p: StoreGate("zarr", {"output_dir": f"{p}/a\0b"}), ValueError),
    "directory of a surrogate": (lambda p: StoreGate("zarr", {"output_dir": f"{p}/{SURROGATE}"}), ValueError),
    "directory of a file": (lambda p: StoreGate("zarr", {"output_dir": str(p / "file")}), OSError),
    "directory below a file": (lambda p: StoreGate("zarr", {"output_dir": str(p / "file/s")}), OSError),
    "unknown protocol": (lambda p: StoreGate("zarr", {"output_dir": "nosuch://bucket/key"}), ValueError),
    "directory with a long name": (lambda p: StoreGate("zarr", {"output_dir": p / ("x" * 300)}), OSError),
    "directory with a long path": (
        lambda p: StoreGate("hybrid", {"output_dir": p / "/".join(["x" * 200] * 30)}),
        OSError,
    ),
    "home of nobody": (lambda p: StoreGate("zarr", {"output_dir": "~nobody-has-this-name/x"}), ValueError),
    "half a URL": (lambda p: StoreGate("zarr", {"output_dir": "s3:/bucket/store"}), ValueError),
    "bucket with a zero": (lambda p: StoreGate("zarr", {"output_dir": "s3://b\0/x"}), ValueError),
    "unknown option": (lambda p: StoreGate("zarr", {"output_dir": "s3://b", "storage_options": {"x": 1}}), ValueError),
    "nobody answers": (lambda p: StoreGate("zarr", {"output_dir": "s3://b/x", "storage_options": NOBODY}), OSError),
    **{
        f"{url} without a name": (lambda p, url=url: StoreGate("zarr", {"output_dir": url}), ValueError)
        for url in ("s3://", "s3:///", "gs://", "az://", "memory://", "memory:///", "http://", "nosuch://", "://")
    },
    "arguments of a number": (lambda p: StoreGate("zarr", 3), TypeError),  # type: ignore[arg-type]
    "arguments of a path": (lambda p: StoreGate("zarr", str(p)), TypeError),  # type: ignore[arg-type]
    "unknown argument": (lambda p: StoreGate("zarr", {"output": str(p)}), TypeError),
    "options of a number": (lambda p: StoreGate("zarr", {"storage_options": 3}), TypeError),
    "options of objects": (lambda p: StoreGate("zarr", {"storage_options": {"a": p}}), TypeError),
    "mode of a list": (lambda p: StoreGate("zarr", {"mode": []}), ValueError),
    "mode of an array": (lambda p: StoreGate("zarr", {"mode": np.zeros(2)}), ValueError),
    "chunk of a float": (lambda p: StoreGate("zarr", {"chunk": 1.5}), ValueError),
    "chunk of no rows": (lambda p: StoreGate("zarr", {"chunk": 0}), ValueError),
    "budget of a list": (lambda p: StoreGate("zarr", {"budget": []}), ValueError),
    "unknown compressor": (lambda p: StoreGate("zarr", {"compressor": "zip"}), ValueError),
    "unknown durability": (lambda p: StoreGate("zarr", {"durability": 1}), ValueError),
    "backend of a number": (lambda p: StoreGate(3), ValueError),  # type: ignore[arg-type]
    "version of a float": (lambda p: StoreGate("zarr", {"output_dir": str(p)}, version=1.5), TypeError),  # type: ignore[arg-type]
    "version of a text": (lambda p: StoreGate("zarr", {"output_dir": str(p)}, version="1"), TypeError),  # type: ignore[arg-type]
}


@pytest.mark.parametrize("what", OPENINGS)
def test_a_bad_opening_is_a_typed_error_and_makes_nothing(tmp_path: Path, what: str) -> None:
    (tmp_path / "file").write_text("mine")
    call, builtin = OPENINGS[what]
    with pytest.raises(StoreGateError) as refused:
        call(tmp_path)
    assert isinstance(refused.value, builtin)
    str(refused.value).encode()
    assert files_in(tmp_path) == {"file": b"mine"}


@pytest.mark.parametrize("code", [errno.EPERM, errno.ENOTSUP, errno.ENOSYS])
def test_a_file_system_without_hard_links_is_refused_by_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    root = tmp_path / "s"
    with StoreGate("zarr", {"output_dir": str(root)}, data_id="a") as gate:
        gate.add_data("x", np.arange(4))
        before = files_in(root)

        def link(*given: Any, **options: Any) -> None:
            raise OSError(code, "not possible here")

        monkeypatch.setattr(os, "link", link)
        with pytest.raises(WriteError, match="has no hard links"):
            gate.add_data("y", np.arange(4))
        with pytest.raises(WriteError, match="has no hard links"):
            StoreGate("zarr", {"output_dir": str(tmp_path / "new")})
        monkeypatch.undo()
        assert files_in(root) == before
        assert not files_in(tmp_path / "new")
        np.testing.assert_array_equal(gate["train"]["x"][:], np.arange(4))


@pytest.mark.parametrize("backend", BACKENDS)
def test_sizes_of_numpy_are_sizes(tmp_path: Path, backend: str) -> None:
    args: dict[str, Any] = {"chunk": np.int64(2)}
    with StoreGate(backend, args if backend == "numpy" else {**args, "output_dir": str(tmp_path)}, "a") as gate:
        for name, shape in {"a": (np.int64(3), np.uint8(2)), "b": np.array([3, 2]), "c": [3, 2]}.items():
            gate.create_empty(name, shape)
            np.testing.assert_array_equal(gate["train"][name][:], np.zeros((3, 2)))
        gate.create_empty("d", np.int64(3))
        assert gate["train"]["d"][:].shape == (3,)
        gate.astype("d", "i4")
        gate.onehot("d", np.int8(2))
        gate.shuffle("train", seed=np.uint32(3))
        if backend != "numpy":
            gate.rollback(np.int64(2))
            assert len(gate.diff(np.int64(1), np.uint8(2))) == 1


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("labels", [[5, 3, 9, 0], [3, 2, 1, 0], list("dcba"), pd.date_range("2020", periods=4)])
def test_a_column_of_pandas_goes_by_position(tmp_path: Path, backend: str, labels: Any) -> None:
    def column(values: Any) -> pd.Series:
        return pd.Series(values, index=labels)

    x = np.array([10, 20, 30, 40])
    with StoreGate(backend, {} if backend == "numpy" else {"output_dir": str(tmp_path)}, "a") as gate:
        gate.add_data("x", column(x))
        gate.add_data(["y", "z"], [column(x + 1), column(x + 2)], do_compile=True)
        view = gate["train"]["x"]
        np.testing.assert_array_equal(gate.get_data("x"), x)
        np.testing.assert_array_equal(view[column([2, 0, 1, 1])], x[[2, 0, 1, 1]])
        np.testing.assert_array_equal(gate.get_data("x", index=column([3, 2, 1, 0])), x[::-1])
        np.testing.assert_array_equal(view[column([True, False, False, True])], x[[0, 3]])
        drawn = gate["train"]["x"].batches(400, weights=column([0.0, 0.0, 1.0, 0.0]))
        assert {int(row) for batch in drawn for row in batch} == {30}
        view[column([3, 1, 0, 2])] = column([1, 2, 3, 4])
        np.testing.assert_array_equal(view[:], [3, 2, 4, 1])
        gate.update_data("x", column([7, 8, 9, 6]))
        np.testing.assert_array_equal(view[:], [7, 8, 9, 6])
        gate.update_data("x", column([5, 4, 3, 2]), index=column([True, True, True, True]))
        np.testing.assert_array_equal(view[:], [5, 4, 3, 2])


@pytest.mark.parametrize("backend", BACKENDS)
def test_names_that_no_variable_can_have_are_not_there(tmp_path: Path, backend: str) -> None:
    with StoreGate(backend, {} if backend == "numpy" else {"output_dir": str(tmp_path)}, "a") as gate:
        gate.add_data("x", np.arange(3))
        for name in (SURROGATE, 3, None, ["x"], {}, np.zeros(2)):
            assert name not in gate["train"]
            assert name not in gate
        gate.delete_data(SURROGATE)  # missing ones are passed over
        assert gate.get_var_names() == ["x"]
    with StoreGate(backend, {} if backend == "numpy" else {"output_dir": str(tmp_path)}, "a") as gate:
        assert gate.get_var_names() == ([] if backend == "numpy" else ["x"])


@pytest.mark.parametrize(
    "arguments",
    [
        ["vacuum", "--older-than", "soon"],
        ["vacuum", "--older-than=-1"],
        ["vacuum", "--keep-versions", "0"],
        ["vacuum", "--data-id", "b"],
        ["info", "--data-id", SURROGATE],
        ["history", "--data-id", "a/b"],
        ["verify", "--data-id", ""],
    ],
)
def test_a_bad_command_says_so_and_changes_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str]
) -> None:
    with StoreGate("zarr", {"output_dir": str(tmp_path)}, data_id="a") as gate:
        gate.add_data("x", np.arange(3))
    before = files_in(tmp_path)
    command, *rest = arguments
    assert cli.main([command, str(tmp_path), *rest]) == 2
    assert "storegate: error: " in capsys.readouterr().err
    assert files_in(tmp_path) == before


@pytest.mark.parametrize("directory", ["", "nosuch://a/b", "missing", SURROGATE, "a\0b"])
def test_a_bad_store_of_a_command_is_named(capsys: pytest.CaptureFixture[str], directory: str) -> None:
    assert cli.main(["info", directory]) == 2
    assert "storegate: error: " in capsys.readouterr().err
