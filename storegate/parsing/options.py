"""Options: ``backend`` and ``backend_args``, parsed once into typed values; opens nothing."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, Protocol, TypeAlias, TypedDict, TypeGuard

import numpy as np

from storegate_engine.arrays import Compressor
from storegate_engine.errors import ArgumentError, ArgumentTypeError, BackendNotFoundError, near_match, shown
from storegate_engine.settings import memory_limit_nbytes

if TYPE_CHECKING:
    from zarr.codecs import BloscCodec, GzipCodec, ZstdCodec

__all__ = [
    "MODES",
    "Backend",
    "BackendArgs",
    "Mode",
    "OpenArgs",
    "OpenMode",
    "Options",
    "parse_backend",
    "parse_compressor",
]

Backend: TypeAlias = Literal["numpy", "zarr", "hybrid"]
BACKENDS: tuple[Backend, ...] = ("numpy", "zarr", "hybrid")
Mode: TypeAlias = Literal["numpy", "zarr"]
"""What a hybrid gate shows: memory or storage."""
MODES: tuple[Mode, ...] = ("numpy", "zarr")
OpenMode: TypeAlias = Literal["a", "r", "r+", "w", "w-", "x"]
OPEN_MODES: tuple[OpenMode, ...] = ("a", "r", "r+", "w", "w-", "x")
Durability: TypeAlias = Literal["process", "power"]


def parse_backend(backend: object) -> Backend:
    """Return the backend; an error for an unknown one lists those that exist."""
    for known in BACKENDS:
        if isinstance(backend, str) and backend == known:
            return known
    if _is_place(backend):
        place = os.fspath(backend)
        raise BackendNotFoundError(
            f"no backend {place!r} (backends: {', '.join(BACKENDS)}); to open a store there write "
            f"StoreGate.open({place!r}), to make or change one StoreGate.open({place!r}, data_id=..., mode='a')"
        )
    hint = near_match(backend, BACKENDS) if isinstance(backend, str) else ""
    raise BackendNotFoundError(f"no backend {backend!r}{hint} (backends: {', '.join(BACKENDS)})")


def _is_place(backend: object) -> TypeGuard[str | os.PathLike[str]]:
    """Return whether a path or URL was given instead of a backend."""
    if isinstance(backend, os.PathLike):
        return True
    return isinstance(backend, str) and (any(mark in backend for mark in "/\\.:") or os.path.exists(backend))


class Codec(Protocol):
    """A compressor of numcodecs, which the predecessor used."""

    def get_config(self) -> dict[str, Any]:
        """Return its name and parameters."""


class OpenArgs(TypedDict, total=False):
    """The keywords of :meth:`StoreGate.open`."""

    chunk: int | None
    """Rows per chunk; chosen by bytes if None."""
    compressor: Literal["lz4", "zstd", "none"] | BloscCodec | GzipCodec | ZstdCodec | Codec | None
    """How chunks are compressed; lz4 if None."""
    storage_options: Mapping[str, object] | None
    """Options of the storage library of a URL."""
    budget: int | str | None
    """Memory limit of long operations; ``storegate.memory-limit`` if None."""
    durability: Durability
    """``process``: a commit survives the end of its process; ``power``: it also survives a power failure."""
    references: Sequence[str | os.PathLike[str]]
    """Directories, and beginnings of URLs, below which attached files may be read."""


class BackendArgs(OpenArgs, total=False):
    """The keys of ``backend_args``, see :class:`StoreGate`."""

    output_dir: str | os.PathLike[str] | None
    """Directory or URL; a temporary directory if None."""
    mode: OpenMode
    """``a`` opens or creates, ``r`` only reads, ``r+`` opens an existing store, ``w-`` or ``x`` creates a new one,
    ``w`` starts empty."""
    copy: bool
    """Whether the numpy backend copies the arrays it is given."""


_KEYS = tuple(BackendArgs.__annotations__)


@dataclass(frozen=True, slots=True)
class Options:
    """How a gate stores its data."""

    output_dir: str | None = None
    """Directory or URL; a temporary directory if None."""
    chunk: int | None = None
    """Rows per chunk; chosen by bytes if None."""
    compressor: Compressor | None = None
    """How chunks are compressed."""
    mode: OpenMode = "a"
    """``a`` opens or creates, ``r`` only reads, ``r+`` opens an existing store, ``w-`` or ``x`` creates a new one,
    ``w`` starts empty."""
    storage_options: Mapping[str, object] | None = None
    """Options of the storage library of a URL."""
    budget: int | str | None = None
    """Memory limit of long operations; ``storegate.memory-limit`` if None."""
    copy: bool = True
    """Whether the numpy backend copies the arrays it is given."""
    durability: Durability = "process"
    """``process``: a commit survives the end of its process; ``power``: it also survives a power failure."""
    references: Sequence[str] = ()
    """Directories, and beginnings of URLs, below which attached files may be read."""

    @property
    def budget_nbytes(self) -> int:
        """The memory limit in bytes."""
        return memory_limit_nbytes(self.budget)

    @classmethod
    def parse(cls, backend_args: Mapping[str, object] | None) -> Options:
        """Return validated options.

        Raises
        ------
        TypeError
            A key is unknown, or a value has the wrong type.
        ValueError
            A mode, chunk, compressor or durability is invalid.
        """
        if backend_args is not None and not isinstance(backend_args, Mapping):
            raise ArgumentTypeError(f"backend_args is a dict (keys: {', '.join(_KEYS)}), found {shown(backend_args)}")
        given: dict[str, Any] = dict(backend_args or {})
        for key in given:
            if key not in _KEYS:
                raise ArgumentTypeError(
                    f"unknown backend_args key {key!r}{near_match(key, _KEYS)} (keys: {', '.join(_KEYS)})"
                )
        if given.get("output_dir") is not None:
            given["output_dir"] = _parse_directory(given["output_dir"])
        _require_storage_options(given.get("storage_options"))
        chunk = given.get("chunk")
        if chunk is not None:
            if isinstance(chunk, bool) or not isinstance(chunk, (int, np.integer)) or chunk < 1:
                raise ArgumentError(f"backend_args chunk is a positive number of rows, found {shown(chunk)}")
            given["chunk"] = int(chunk)
        if not isinstance(given.setdefault("mode", "a"), str) or given["mode"] not in OPEN_MODES:
            known = ", ".join(map(repr, OPEN_MODES))
            raise ArgumentError(f"backend_args mode is one of {known}, found {given['mode']!r}")
        if given.setdefault("durability", "process") not in ("process", "power"):
            raise ArgumentError(f"backend_args durability is 'process' or 'power', found {given['durability']!r}")
        given["references"] = _parse_references(given.get("references"))
        given["compressor"] = parse_compressor(given.get("compressor"))
        options = cls(**given)
        memory_limit_nbytes(options.budget)
        return options


def _parse_directory(directory: Any) -> str:
    """Return a path or URL as a str that the system can open."""
    try:
        path = os.fspath(directory)
    except TypeError as err:
        raise ArgumentTypeError(f"output_dir is a path or a URL, found {shown(directory)}") from err
    if not isinstance(path, str):
        raise ArgumentTypeError(f"output_dir is a path or a URL of text, found {shown(path)}; use os.fsdecode")
    try:
        is_name = b"\0" not in os.fsencode(path)
    except UnicodeEncodeError:
        is_name = False
    if not is_name:
        raise ArgumentError(f"output_dir has characters that a path cannot have: {shown(path)}")
    return path


def _parse_references(references: Any) -> tuple[str, ...]:
    if references is None:
        return ()
    if isinstance(references, (str, os.PathLike)) or not isinstance(references, Sequence):
        raise ArgumentTypeError(f"references is a list of directories, found {shown(references)}")
    return tuple(
        directory if isinstance(directory, str) and "://" in directory else os.path.abspath(_parse_directory(directory))
        for directory in references
    )


def _require_storage_options(options: Any) -> None:
    if options is not None and not isinstance(options, Mapping):
        raise ArgumentTypeError(f"storage_options is a dict, found {shown(options)}")
    try:
        json.dumps(dict(options or {}))
    except (TypeError, ValueError) as err:
        raise ArgumentTypeError(f"storage_options must be JSON, to be sent to other processes: {err}") from err


_Shuffle: TypeAlias = Literal["noshuffle", "shuffle", "bitshuffle"]
_BLOSC_SHUFFLES: tuple[_Shuffle, _Shuffle, _Shuffle] = ("noshuffle", "shuffle", "bitshuffle")


def parse_compressor(compressor: object) -> Compressor | None:
    """Return the zarr codecs of a compressor, given by name or as a codec of zarr or numcodecs; None for the default.

    Raises
    ------
    ValueError
        zarr v3 specifies no such compressor.

    Examples
    --------
    >>> parse_compressor("none")
    ()
    """
    if compressor is None or (isinstance(compressor, str) and compressor == "lz4"):
        return None
    if isinstance(compressor, str) and compressor == "none":
        return ()
    from zarr.codecs import BloscCodec, GzipCodec, ZstdCodec  # deferred on purpose: what does not write does without

    if isinstance(compressor, str) and compressor == "zstd":
        return (ZstdCodec(level=1),)
    if isinstance(compressor, (BloscCodec, GzipCodec, ZstdCodec)):
        return (compressor,)
    if hasattr(compressor, "get_config"):  # a numcodecs object, which the predecessor used
        config = compressor.get_config()
        match config.get("id"):
            case "blosc":
                shuffle = _BLOSC_SHUFFLES[config["shuffle"]]
                return (BloscCodec(cname=config["cname"], clevel=config["clevel"], shuffle=shuffle),)
            case "zstd":
                return (ZstdCodec(level=config["level"]),)
            case "gzip" | "zlib":
                return (GzipCodec(level=config["level"]),)
    raise ArgumentError(
        f"compressor {compressor!r} is not one that zarr v3 specifies; use 'lz4' (default), 'zstd', 'none' or one of "
        "zarr.codecs.BloscCodec, GzipCodec and ZstdCodec"
    )
