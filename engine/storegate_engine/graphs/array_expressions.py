"""Array expressions: a variable's blocks as a node of the expressions of dask, or of dask-array; reads no rows.

Both packages have the same base class for it, each in its own modules, which are imported on first use.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from functools import cache, cached_property
from typing import Any, ClassVar, Literal, TypeAlias

import numpy as np
from dask.base import tokenize

from storegate_engine.graphs.layers import RowsLayer
from storegate_engine.graphs.row_layers import covering

__all__ = ["ExpressionForm", "RowsExpr", "expression_of", "with_layers"]

ExpressionForm: TypeAlias = Literal["dask", "dask_array"]

_BASES: Mapping[str, str] = {"DaskRows": "dask.array._array_expr._expr", "DaskArrayRows": "dask_array._expr"}
"""The package and module of the base of each class, by the name of the class in this module."""
_NAMES: Mapping[ExpressionForm, str] = {"dask": "DaskRows", "dask_array": "DaskArrayRows"}


class RowsExpr:
    """The common part of the expressions of both packages: the tasks are those of the layer.

    Operands are the layer and, for rows that the graph passes to tasks, the expression of these.
    """

    _parameters: ClassVar[list[str]] = ["layer", "stored"]
    _defaults: ClassVar[dict[str, Any]] = {"stored": None}

    operands: list[Any]
    _determ_token: str | None

    def __init__(self, *operands: Any, **named: Any) -> None:
        """Do nothing; without this method, equal names would make one object of two layers.

        Layers of one name may differ in settings, and in whether all blocks will be computed.
        """

    @property
    def rows_layer(self) -> RowsLayer:
        """The layer that makes the tasks."""
        layer = self.operands[0]
        made: RowsLayer = layer if self.is_source else layer.over(self._name, self.operands[1]._name)
        return made

    @property
    def is_source(self) -> bool:
        """Whether any process can read the rows."""
        return self.operands[1] is None

    @cached_property
    def _name(self) -> str:
        name: str = self.operands[0].name
        return name if self.is_source else f"{name}-{tokenize(self.operands[1]._name)}"

    @cached_property
    def chunks(self) -> tuple[tuple[int, ...], ...]:
        """Rows of every block, then the sizes of one row."""
        layer = self.operands[0]
        return (layer.rows, *((size,) for size in layer.variable.row_shape))

    @cached_property
    def _meta(self) -> Any:
        variable = self.operands[0].variable
        return np.empty((0,) * len(variable.shape), variable.dtype)

    def __dask_tokenize__(self) -> str:
        if not self._determ_token:
            self._determ_token = tokenize(type(self).__name__, self._name, self.operands[0].settings)
        return self._determ_token

    def _layer(self) -> dict[Any, Any]:
        layer = self.rows_layer
        return layer.tasks(layer.get_output_keys())

    def lower_once(self, lowered: dict[str, Any]) -> Any:
        """Return the expression itself, which cannot be lowered; a lookup by name might return another one."""
        return self if self.is_source else super().lower_once(lowered)  # type: ignore[misc]

    def _simplify_up(self, parent: Any, dependents: Any) -> Any:
        """Return an expression that reads only the blocks of a slice, if the parent is one."""
        if type(parent).__name__ != "SliceSlicesIntegers" or not self.is_source:
            return None
        first, *rest = parent.index
        part = covering(self.operands[0], first)
        if part is None:
            return None
        rows = type(self)(part[0])
        index = (part[1], *rest)
        if all(isinstance(part, slice) and part == slice(None) for part in index):
            return rows
        return type(parent)(rows, index, *parent.operands[2:])


@cache
def _class(name: str) -> type:
    base = importlib.import_module(_BASES[name]).ArrayExpr
    return type(name, (RowsExpr, base), {"__module__": __name__, "__doc__": RowsExpr.__doc__})


def __getattr__(name: str) -> type:  # another process may unpickle an expression before it has made one
    if name in _BASES:
        return _class(name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def expression_of(layer: RowsLayer, form: ExpressionForm, stored: Any = None) -> Any:
    """Return a layer as an expression.

    Parameters
    ----------
    layer : RowsLayer
        The blocks.
    form : {"dask", "dask_array"}
        The package of the expression.
    stored : expression, optional
        The expression of the rows that the graph passes to tasks.
    """
    return _class(_NAMES[form])(layer, stored)


def with_layers(expression: Any, change: Callable[[RowsLayer], RowsLayer]) -> Any:
    """Return an expression with each layer in it replaced; the same object if there is none."""
    done: dict[str, Any] = {}

    def changed(node: Any) -> Any:
        if node._name not in done:
            if isinstance(node, RowsExpr):
                done[node._name] = type(node)(change(node.operands[0]), node.operands[1])
            else:
                below = {id(child): changed(child) for child in node.dependencies()}
                operands = [below.get(id(operand), operand) for operand in node.operands]
                is_same = all(new is old for new, old in zip(operands, node.operands, strict=True))
                done[node._name] = node if is_same else type(node)(*operands)
        return done[node._name]

    return changed(expression)
