"""Layers: blocks of a variable as one symbolic layer of a dask graph, planned for the wanted blocks; reads no rows.

Tasks hold a small spec (places, pieces, order) and read the rows themselves; they are made when dask culls the graph
and so names the wanted blocks.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import astuple, replace
from functools import cached_property
from itertools import chain, pairwise
from typing import Any, TypeAlias

import numpy as np
from dask._task_spec import DataNode, GraphNode, Task, TaskRef
from dask.base import tokenize
from dask.highlevelgraph import Layer, MaterializedLayer
from dask.typing import Key

from storegate_engine.arrays import StoredIndex
from storegate_engine.budget import BLOCK_NBYTES, block_rows
from storegate_engine.buffers import Pool, Workspace
from storegate_engine.clusters import Capacity
from storegate_engine.errors import MemoryBudgetError
from storegate_engine.exchange import (
    COPIES,
    Exchange,
    Plan,
    Step,
    moved_row_nbytes,
    permuted_rows,
    plan_rows,
    spill_of,
    task_nbytes,
)
from storegate_engine.scratch import Spill, Visit, sent_with
from storegate_engine.settings import scratch_directory, shuffle_plan
from storegate_engine.submitted import has_client
from storegate_engine.table import Variable, is_stored, temporaries_of

__all__ = ["RowsLayer", "blocks_of", "fitting_rows", "plan_blocks"]

Array: TypeAlias = np.ndarray[Any, Any]

MAX_BLOCKS = 2**20
"""Most blocks of one array: dask keeps the size of each, and loops over all of them."""
IDLE_BLOCKS = 4
"""Number of blocks whose memory is kept for later ones."""
_blocks = Pool(IDLE_BLOCKS * BLOCK_NBYTES)


class RowsLayer(Layer):
    """Blocks of one variable's logical rows, as a symbolic graph layer.

    When dask culls the graph, the wanted blocks decide how they are read, see `plans`::

        read      block                                     a task per block
        gather    gather -> block, block, ...               a task for as many blocks as fit, which are cut from it
        exchange  scatter, scatter, ... -> after all -> block, block, ...

    A block has the same key and the same rows, however it is read. Every other key names all that its task does: a
    cluster keeps the first task that it gets for a key, whichever graph sends it.

    Between two steps of an exchange is one task that depends on all tasks of the first, and on which all of the second
    depend: P scatter tasks and K blocks have P + K edges instead of P · K. Blocks find their rows by the names of
    files, which follow from the plan; no edge carries any.

    Parameters
    ----------
    name : str
        Name of the dask array.
    variable : Variable
        The variable to read.
    rows : tuple of int
        Rows of each block, all the same except the last.
    capacity : Capacity
        Memory and threads to plan with.
    """

    is_full_pass = False
    """Whether all blocks will be computed, in several graphs, so that each graph plans for all of them."""
    given_chunks: tuple[tuple[int, ...], ...] | None = None
    """The chunks of the array whose rows the graph passes to tasks; None if tasks read the rows themselves."""

    def __init__(self, name: str, variable: Variable, rows: tuple[int, ...], capacity: Capacity) -> None:
        super().__init__()
        self.name = name
        self.variable = variable
        self.starts = (0, *np.cumsum(rows).tolist())
        self.capacity = capacity
        # plans use the configuration of the process that makes the layer, wherever it is culled
        self._shuffle = shuffle_plan()
        self._scratch = scratch_directory()
        self._spill: Spill | Visit | None = None
        self._held = temporaries_of(variable)

    def in_full_pass(self) -> RowsLayer:
        """Return the layer for a pass over all blocks, in parts: rows are exchanged once, not gathered often."""
        layer = object.__new__(type(self))
        layer.__dict__.update(self.__dict__, is_full_pass=True)
        layer.__dict__.pop("_everything", None)
        return layer

    def __getstate__(self) -> dict[str, Any]:
        """Pickle without tasks; the spill of a graph sent to a scheduler is created here and travels with it."""
        state = {key: value for key, value in self.__dict__.items() if key != "_everything"}
        if has_client() and self._exchanges:
            state["_spill"] = self._open_spill()
            sent_with(self)
        return state

    @property
    def rows(self) -> tuple[int, ...]:
        """Rows of each block."""
        return tuple(stop - start for start, stop in pairwise(self.starts))

    @property
    def settings(self) -> tuple[object, ...]:
        """The settings in which two layers of one name may differ: their rows are equal, their plans may not be."""
        return (astuple(self.capacity), self._shuffle, str(self._scratch), self.is_full_pass)

    @property
    def _exchanges(self) -> bool:
        """Whether a pass over all blocks takes an exchange."""
        return self.plan(range(len(self.starts) - 1)).kind == "exchange"

    def _open_spill(self) -> Spill | Visit:
        """Return the directory of all spills of this layer, and of others with its name."""
        if self._spill is None:
            self._spill = spill_of(self.variable, tokenize(self.name), self._scratch)
        return self._spill

    def __repr__(self) -> str:
        return f"<RowsLayer {self.name!r}: {len(self.starts) - 1} blocks of {self.variable.name!r}>"

    has_legacy_tasks = False  # otherwise dask looks at every task

    def __len__(self) -> int:
        return len(self._everything)

    def __iter__(self) -> Iterator[Key]:
        return iter(self._everything)

    def __getitem__(self, key: Key) -> Any:
        return self._everything[key]

    @cached_property
    def _everything(self) -> dict[Key, GraphNode]:
        """All tasks, for users of the graph that do not cull it."""
        return self.tasks(self.get_output_keys())

    def is_materialized(self) -> bool:
        """Return False: tasks are made when the graph is culled."""
        return False

    def get_output_keys(self) -> set[Key]:
        """Return the keys of all blocks."""
        return {self._key(block) for block in range(len(self.starts) - 1)}

    def cull(self, keys: set[Key], all_hlg_keys: Collection[Key]) -> tuple[Layer, Mapping[Key, set[Key]]]:
        """Return a layer with only the wanted blocks, and the keys that they need."""
        tasks = self.tasks(keys)
        return MaterializedLayer(tasks), {key: set(task.dependencies) for key, task in tasks.items()}

    def plan(self, blocks: Sequence[int]) -> Plan:
        """Return the plan for these blocks."""
        return plan_blocks(self.variable, self.starts, blocks, self.capacity, self._shuffle)

    @property
    def _spare_nbytes(self) -> int:
        """Memory that a task has besides its rows, within the copies that the plan counts."""
        return int((COPIES - 1) * task_nbytes(*astuple(self.capacity)))

    def _key(self, block: int) -> Key:
        return (self.name, block, *(0 for _ in self.variable.row_shape))

    def tasks(self, keys: Collection[Key]) -> dict[Key, GraphNode]:
        """Return the tasks of the blocks among ``keys``, and those that they depend on."""
        # A gather of one block is a read. A pass over all blocks is planned as a whole although each graph has only
        # some of them: its files serve the later graphs, too.
        everything = range(len(self.starts) - 1)
        blocks = [block for block in everything if self._key(block) in keys]
        planned = everything if self.is_full_pass else blocks
        plan = self.plan(planned)
        if plan.kind == "exchange":
            return self._exchange(blocks, (planned[0], planned[-1] + 1), plan)
        if plan.kind == "gather" and len(blocks) > 1:
            return self._gather(blocks, plan)
        return self._read(blocks)

    def _read(self, blocks: Sequence[int]) -> dict[Key, GraphNode]:
        """Return a task per block that reads it."""
        # rows in memory would travel with every task, so they are one node on which all depend
        spec_key = f"{self.name}-spec"
        small = _is_small(self.variable)
        spec = self.variable if small else TaskRef(spec_key)
        tasks: dict[Key, GraphNode] = {} if small else {spec_key: DataNode(spec_key, self.variable)}
        for block in blocks:
            key = self._key(block)
            tasks[key] = Task(key, read_block, spec, self.starts[block], self.starts[block + 1], self._spare_nbytes)
        return tasks

    def _gather(self, blocks: Sequence[int], plan: Plan) -> dict[Key, GraphNode]:
        tasks: dict[Key, GraphNode] = {}
        for group in _groups(blocks, self.starts, plan.bucket_rows):
            spans = [(self.starts[block], self.starts[block + 1]) for block in group]
            key = f"{self.name}-gather-{tokenize(spans)}"
            tasks |= self._gathered(key, spans)
            done = 0
            for block, (lo, hi) in zip(group, spans, strict=True):
                tasks[self._key(block)] = Task(self._key(block), cut_block, TaskRef(key), done, done + hi - lo)
                done += hi - lo
        return tasks

    def _gathered(self, key: Key, spans: Sequence[tuple[int, int]]) -> dict[Key, GraphNode]:
        """Return the task that gives the rows of several spans under a key."""
        return {key: Task(key, gather_blocks, self.variable, spans, self._spare_nbytes)}

    def _scattered(self, number: int) -> TaskRef | None:
        """Return a reference to the rows of a scatter task, None if it reads them itself."""
        return None

    def _exchange(self, blocks: Sequence[int], buckets: tuple[int, int], plan: Plan) -> dict[Key, GraphNode]:
        """Return the steps of an exchange as tasks, with one between two steps on which all of the next depend."""
        token = tokenize(self.name, buckets, plan.map_rows)
        spill = self._open_spill()
        exchange = Exchange.of(
            [self.variable],
            [spill.for_tasks()],
            map_rows=[plan.map_rows],
            bucket_rows=plan.bucket_rows,
            buckets=buckets,
            prefixes=[f"map-{token}"],
        )
        # the directory belongs to this process: another client of the same cluster has its own
        token = tokenize(token, str(spill.place))
        tasks: dict[Key, GraphNode] = {}
        before: TaskRef | None = None
        for step in exchange.steps():
            keys: list[Key] = [(f"{self.name}-{step.name}-{token}", number) for number in range(step.n_tasks)]
            for number, key in enumerate(keys):
                rows = self._scattered(number) if step.name == "scatter" else None
                tasks[key] = Task(key, run_task, exchange, step, number, before, rows)
            done = f"{self.name}-after-{step.name}-{token}"
            tasks[done] = Task(done, all_done, *map(TaskRef, keys))
            before = TaskRef(done)
        for block in blocks:
            tasks[self._key(block)] = Task(self._key(block), collect_block, exchange, block, before)
        return tasks


def _groups(blocks: Sequence[int], starts: Sequence[int], n_rows: int) -> list[list[int]]:
    """Return blocks in groups of at most ``n_rows`` rows, or of one block."""
    groups: list[list[int]] = []
    room = 0
    for block in blocks:
        rows = starts[block + 1] - starts[block]
        if not groups or rows > room:
            groups.append([])
            room = max(n_rows, rows)
        groups[-1].append(block)
        room -= rows
    return groups


def plan_blocks(
    variable: Variable, starts: Sequence[int], blocks: Sequence[int], capacity: Capacity, force: str | None = None
) -> Plan:
    """Return the plan for some blocks of a variable; see `plans` and, for ``force``, `exchange.plan_rows`."""
    # If the rows from the first block to the last are in runs, so are those of each, and a pass is planned for all of
    # them: one question for 100,000 blocks.
    lo, hi = (starts[min(blocks)], starts[max(blocks) + 1]) if blocks else (0, 0)
    in_order = variable.order.runs(lo, hi) is not None or all(
        variable.order.runs(starts[block], starts[block + 1]) is not None for block in blocks
    )
    is_whole = len(blocks) == len(starts) - 1
    n_rows = hi - lo if is_whole else sum(starts[block + 1] - starts[block] for block in blocks)
    block_rows = starts[1] - starts[0] if len(starts) > 1 else 1
    plan = plan_rows(variable, n_rows, *astuple(capacity), in_order=in_order, bucket_rows=block_rows, force=force)
    if plan.kind != "gather":
        return plan
    _, fitting = permuted_rows(moved_row_nbytes(variable), variable.offsets[-1], *astuple(capacity))
    return replace(plan, bucket_rows=max(block_rows, fitting))


def gather_blocks(variable: Variable, spans: Sequence[tuple[int, int]], spare_nbytes: int) -> Array:
    """Return the logical rows of several spans; every stored chunk that they touch is read once."""
    if spans[-1][1] - spans[0][0] == sum(hi - lo for lo, hi in spans):
        rows: Array = variable.read(spans[0][0], spans[-1][1], spare_nbytes=spare_nbytes)
    else:
        rows = variable.take(np.concatenate([np.arange(lo, hi) for lo, hi in spans]), spare_nbytes=spare_nbytes)
    return rows


def cut_block(rows: Array, lo: int, hi: int) -> Array:
    """Return rows ``lo..hi`` of gathered ones."""
    return rows[lo:hi]


def all_done(*tasks: None) -> None:
    """Stand between two steps of an exchange, as the task that those of the next step depend on."""


def run_task(exchange: Exchange, step: Step, number: int, before: None, rows: Array | None) -> None:
    """Run one task of a step of an exchange after the step before, with its rows if the graph has them."""
    exchange.run(step, number, Workspace(), rows)


def collect_block(exchange: Exchange, block: int, before: None) -> Array:
    """Return a block, which is a bucket of an exchange, after the last step before it."""
    (rows,) = exchange.collect(block, [Workspace()])
    return rows


def read_block(variable: Variable, lo: int, hi: int, spare_nbytes: int) -> np.ndarray[Any, Any]:
    """Return logical rows ``lo..hi``, as a task of the layer."""
    rows = _blocks.array((hi - lo, *variable.row_shape), variable.dtype)
    variable.read_into(lo, hi, rows, spare_nbytes=spare_nbytes, alone=True)  # beside other tasks
    return rows


def _is_small(variable: Variable) -> bool:
    """Return whether a variable travels as places and numbers; arrays in memory become one node of the graph."""
    return is_stored(variable) and all(isinstance(index, StoredIndex) for index in variable.order.indices())


def blocks_of(variables: Collection[Variable], capacity: Capacity) -> tuple[int, ...]:
    """Return the rows of each block, the same for all variables of a phase.

    Blocks are as large as the widest variable allows, and whole stored chunks if these are not larger. If a full pass
    would be an exchange, they are large enough for its parts.
    """
    n_rows = max((len(variable) for variable in variables), default=0)
    widest = max((max(moved_row_nbytes(of), of.dense_row_nbytes) for of in variables), default=1)
    planned = [variable for variable in variables if variable.kind == "dense"]  # others are read row by row
    rows = block_rows(widest, max(1, n_rows), budget_nbytes=capacity.budget_nbytes, workers=capacity.workers)
    permuted = [variable for variable in planned if variable.order.runs(0, len(variable)) is None]
    if permuted:
        limits = [permuted_rows(moved_row_nbytes(v), v.offsets[-1], *astuple(capacity)) for v in permuted]
        rows = min(max(rows, *(least for least, _ in limits)), *(most for _, most in limits))
    chunk_rows = {piece.array.chunk_rows for variable in variables for piece in variable.pieces}
    align = max((chunk for chunk in chunk_rows if chunk <= rows), default=1)
    rows = fitting_rows(planned, n_rows, rows // align * align, capacity)
    full, rest = divmod(n_rows, rows)
    if full > MAX_BLOCKS:
        raise MemoryBudgetError(
            f"{n_rows} rows are {full} blocks of {rows} rows, more than dask can handle ({MAX_BLOCKS}): pick the rows "
            "that you need from the view first (gate['train']['x'][lo:hi]), or raise the budget"
        )
    return (rows,) * full + ((rest,) if rest or not full else ())


def fitting_rows(variables: Collection[Variable], n_rows: int, rows: int, capacity: Capacity) -> int:
    """Return the rows of a block, near ``rows``, with which each variable can be read within the memory.

    Smaller blocks take less; larger ones are fewer, so that not all threads have one at the same time, each with chunks
    to decode. If neither fits, it is ``rows``, and planning with them raises an error with the memory needed.
    """
    smaller = (rows >> halvings for halvings in range(7) if rows >> halvings)
    larger = (min(rows << doublings, n_rows) for doublings in range(1, (max(1, n_rows) // rows).bit_length() + 1))
    for found in chain(smaller, larger):
        if n_rows // found <= MAX_BLOCKS and all(_fits(variable, found, capacity) for variable in variables):
            return found
    return rows


def _fits(variable: Variable, rows: int, capacity: Capacity) -> bool:
    starts = (*range(0, len(variable), rows), len(variable))
    try:
        plan_blocks(variable, starts, range(len(starts) - 1), capacity)
    except MemoryBudgetError:
        return False
    return True
