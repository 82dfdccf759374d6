"""What must be an error: each comment is one itself where its line is none any more."""

from __future__ import annotations

from storegate import StoreGate
from storegate.types import Array, BackendArgs, BatchArgs, View


def backends(backend: str) -> None:
    StoreGate("zar")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    StoreGate(backend)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    StoreGate("zarr", {"output_dirr": 3})  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    StoreGate("zarr", {"output_dir": 3})  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    StoreGate("zarr", {"mode": "rw"})  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    StoreGate("zarr", {"compressor": "gzip9"})  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    StoreGate("zarr", {"durability": "disk"})  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    StoreGate.open("store", budgett=3)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    StoreGate().read("a.h5", grup="x")  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    BackendArgs(chunks=3)  # type: ignore[typeddict-unknown-key]  # pyright: ignore[reportCallIssue]


def phases(gate: StoreGate) -> None:
    gate.add_data("x", [1], phase="trian")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    gate.get_data("x", phase="tests")  # type: ignore[call-overload]  # pyright: ignore[reportArgumentType, reportCallIssue]
    gate.get_data("x", phase=(0.5, 0.25, 0.25))  # type: ignore[call-overload]  # pyright: ignore[reportArgumentType, reportCallIssue]
    gate.shuffle("al")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    gate.set_mode("hybrid")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    gate.to_xarray("trian")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]


def names(gate: StoreGate) -> None:
    gate.get_data(3)  # type: ignore[call-overload]  # pyright: ignore[reportArgumentType, reportCallIssue]
    gate.get_data(["x", 3])  # type: ignore[list-item]  # pyright: ignore[reportArgumentType, reportCallIssue]
    gate.get_data({"x"})  # type: ignore[call-overload]  # pyright: ignore[reportArgumentType, reportCallIssue]
    gate["train"][{"x"}]  # type: ignore[call-overload]  # pyright: ignore[reportArgumentType, reportCallIssue]
    gate["train"]["x"]["train"][3.5]  # type: ignore[call-overload]  # pyright: ignore[reportArgumentType, reportCallIssue]


def data(gate: StoreGate) -> None:
    gate.add_data("x", object())  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    gate.add_data("x", {1, 2})  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    gate.add_data("x", [1], shuffel=True)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]


def batches(x: View[Array], train: View[dict[str, Array]], arguments: BatchArgs) -> None:
    x.batches(10, shufle=True)  # type: ignore[call-overload]  # pyright: ignore[reportCallIssue]
    x.batches(10, shuffle="block")  # type: ignore[call-overload]  # pyright: ignore[reportArgumentType]
    x.batches(10, drop_last="drop")  # type: ignore[call-overload]  # pyright: ignore[reportArgumentType]
    x.batches("10")  # type: ignore[call-overload]  # pyright: ignore[reportArgumentType]
    x.batches(10, transform=len)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType, reportCallIssue]
    arguments["n_epochs"] = 3  # type: ignore[typeddict-unknown-key]  # pyright: ignore[reportGeneralTypeIssues]
    print(train.data)  # type: ignore[arg-type]  # pyright: ignore[reportAttributeAccessIssue]
    gate_of(x)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]


def gate_of(gate: StoreGate) -> None: ...


def states(x: View[Array]) -> None:
    x.batches(10).state_dict()["epochs"]  # type: ignore[typeddict-item]  # pyright: ignore[reportGeneralTypeIssues]
    x.batches(10).load_state_dict("state")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
