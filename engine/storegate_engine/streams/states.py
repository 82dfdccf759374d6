"""States: the place of a stream as a small JSON dict, and checks before another stream resumes from it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TypedDict, cast

from storegate_engine.errors import StreamStateError, shown
from storegate_engine.streams.epochs import ORDER_VERSION
from storegate_engine.table import Variable, is_stored, key_of

__all__ = [
    "StreamOrder",
    "StreamState",
    "data_of",
    "require_data",
    "require_order",
    "require_state",
    "state_of",
    "version_in",
]

FORMAT = 2
"""The version of `Stream.state_dict`. In version 1 the names of the data depended on the place of the store: they are
not compared, but the version of the table is."""


class StreamOrder(TypedDict):
    """Everything that the order of the rows of a stream depends on."""

    rows: int
    """Number of rows of an epoch."""
    batch_size: int
    """The requested rows of a step."""
    last: str
    """What happens to a last step that is not full."""
    shuffle: str
    """The kind of order."""
    seed: int
    """The seed of the order."""
    streams: int
    """Number of lanes of a buffer of blocks."""
    keys: int
    """The version of how seeds and epochs become orders."""
    block_rows: int | None
    """Rows of a block."""
    buffer_blocks: int | None
    """Blocks of a buffer."""
    weights: str | None
    """A hash of the weights."""
    lengths: str | None
    """A hash of the lengths by which rows are put together."""
    first: str | None
    """``stored``, if epoch 0 is the order of the phase."""


class StreamState(TypedDict):
    """The place of a stream, as JSON."""

    format: int
    """The version of these states."""
    epoch: int
    """The current epoch."""
    step: int
    """Batches of the epoch that were given."""
    version: int
    """The version of the table that the rows belong to."""
    data: list[list[str | None]]
    """A name for each variable's content; None if it has none, like rows in memory."""
    order: StreamOrder
    """Everything that the order of the rows depends on."""


def state_of(epoch: int, step: int, version: int, variables: Sequence[Variable], order: StreamOrder) -> StreamState:
    """Return the state of a stream.

    Parameters
    ----------
    epoch, step : int
        The place of the stream.
    version : int
        The version of the table that the variables belong to.
    variables : sequence of Variable
        The rows.
    order : StreamOrder
        The result of `shuffles.order_of`.
    """
    return {
        "format": FORMAT,
        "epoch": epoch,
        "step": step,
        "version": version,
        "data": data_of(variables),
        "order": order,
    }


def data_of(variables: Sequence[Variable]) -> list[list[str | None]]:
    """Return a name for each variable's content; None for rows in memory, which have none."""
    return [[variable.name, key_of(variable) if is_stored(variable) else None] for variable in variables]


def require_state(state: object) -> StreamState:
    """Return the state of a stream; anything else is refused."""
    given = state if isinstance(state, Mapping) else {}
    found = given.get("format") if isinstance(state, Mapping) else shown(state)
    if type(found) is not int or not 1 <= found <= FORMAT:
        raise StreamStateError(
            f"the state of a stream has format {FORMAT}, found {found!r}; load what state_dict() returned"
        )
    kinds = {"epoch": int, "step": int, "version": int, "order": Mapping, "data": Sequence}
    wrong = [key for key, kind in kinds.items() if not isinstance(given.get(key), kind) or isinstance(given[key], bool)]
    wrong += [key for key in ("epoch", "step") if key not in wrong and given[key] < 0]
    if "data" not in wrong and not all(isinstance(item, Sequence) and len(item) == 2 for item in given["data"]):
        wrong.append("data")
    if wrong:
        listed = ", ".join(f"{key} {shown(given.get(key))}" for key in wrong)
        raise StreamStateError(f"the state of a stream is damaged: {listed}; load what state_dict() returned")
    return cast(StreamState, state)


def version_in(state: StreamState, default: int) -> int:
    """Return the version of orders of a state if it is an older one of ours, else the default."""
    found = state["order"].get("keys", 1)  # the first version did not name itself
    return found if found in range(1, ORDER_VERSION) else default


def require_order(state: StreamState, own: StreamOrder) -> None:
    """Refuse a state of a different order."""
    theirs: dict[str, object] = {"keys": 1, **state["order"]}
    if differing := {name: value for name, value in own.items() if value != theirs.get(name)}:
        listed = ", ".join(f"{name} {theirs.get(name)!r} (here {value!r})" for name, value in differing.items())
        raise StreamStateError(f"the state is of another order: {listed}; make the stream with these values")


def require_data(state: StreamState, variables: Sequence[Variable], version: int) -> None:
    """Refuse a state of other variables, or of other rows of these."""
    names = [variable.name for variable in variables]
    if (found := [name for name, _ in state["data"]]) != names:
        raise StreamStateError(
            f"the state is of other data: of {found}, here are {names}; make the stream of these variables"
        )
    differing: Sequence[str | None]
    if state["format"] == 1:
        differing = [] if state["version"] == version else names
    else:
        differing = [
            name for (name, own), (_, key) in zip(data_of(variables), state["data"], strict=True) if own != key
        ]
    if differing:
        raise StreamStateError(
            f"the state is of other data: the rows of {differing} are not those of version {state['version']}, "
            f"which it is of; here is version {version}; open that version, or begin a new epoch"
        )
