"""Plain: facts as dicts, lists, texts and numbers, as JSON has them; reads nothing."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from datetime import datetime
from typing import Any

import numpy as np

from storegate_engine.ragged import Ragged

__all__ = ["as_json", "json_text"]


def as_json(value: Any) -> Any:
    """Return facts as dicts, lists, texts and numbers; infinities and NaN, which JSON has not, as texts.

    Numbers come back equal. Times are texts in their unit, and bytes the text of their characters.

    >>> as_json({"x": np.array([1.5, np.inf]), "when": np.datetime64("2020-01-01T00:00:00.000000001")})
    {'x': [1.5, 'inf'], 'when': '2020-01-01T00:00:00.000000001'}
    """
    if isinstance(value, Ragged):
        return [as_json(row) for row in value]
    if is_dataclass(value):
        return {field.name: as_json(getattr(value, field.name)) for field in fields(value)}
    if isinstance(value, datetime):
        return value.isoformat(timespec="seconds")
    if isinstance(value, Mapping):
        return {str(key): as_json(item) for key, item in value.items()}
    if isinstance(value, bytes):
        return value.decode("latin-1")
    if isinstance(value, (np.ndarray, np.generic)):
        return as_json(value.tolist()) if value.dtype.kind in "biufUTS" else np.asarray(value).astype(str).tolist()
    if isinstance(value, (list, tuple)):
        return [as_json(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return value


def json_text(facts: object) -> str:
    """Return facts as one JSON document; what else is not JSON, such as a dtype, is a text."""
    return json.dumps(as_json(facts), allow_nan=False, default=str)
