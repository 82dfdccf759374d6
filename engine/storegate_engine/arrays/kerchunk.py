"""Kerchunk: arrays whose chunks are ranges of other files, named by references of kerchunk's format, version 1.

A file of references is JSON: metadata of zarr's format 2, and for each chunk a URL, offset and length, or its bytes.
VirtualiZarr writes them too. What they name is opened elsewhere, where it is known what may be opened.

See https://fsspec.github.io/kerchunk/spec.html for the format.
"""

from __future__ import annotations

import base64
import json
import math
import os
import re
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from importlib import import_module
from typing import Any, TypeAlias

import numpy as np

from storegate_engine.arrays.byte_ranges import RangeFile, read_chunks, unshuffled
from storegate_engine.arrays.file_states import FileState, is_url, open_to_read, state_of
from storegate_engine.arrays.shards import RowSpan
from storegate_engine.errors import DtypeError

__all__ = ["ReferencedChunks", "referenced_arrays", "referenced_chunks"]

Array: TypeAlias = np.ndarray[Any, Any]
Decoder: TypeAlias = Callable[[Array, int], Array]
"""Takes the bytes of a chunk, and how many they are decoded."""

INLINE = -1
"""The target of chunks whose bytes are in the references."""
TO_THE_END = -1
"""The length of chunks that are whole files."""
OTHER_NUMBERS = ("scale_factor", "add_offset", "_Unsigned")
"""Attributes of variables that are stored as other numbers than they mean."""
MISSING = ("_FillValue", "missing_value")
"""Attributes with numbers that stand for missing values."""
_TEMPLATE = re.compile(r"\{\{\s*(\w+)\s*\}\}")


@dataclass(frozen=True, slots=True, eq=False)
class ReferencedChunks:
    """Rows in chunks, of which each is a range of one of several files."""

    shape: tuple[int, ...]
    """The shape of the array."""
    chunk_shape: tuple[int, ...]
    """The shape of a chunk; those at the edges are as large."""
    dtype: np.dtype[Any]
    """The dtype of stored values, with their byte order."""
    decoders: tuple[Decoder, ...]
    """What is done to the bytes of a chunk, in order."""
    fill: Array
    """The value of chunks that are missing."""
    targets: tuple[str, ...]
    """The paths or URLs of the files."""
    numbers: Array
    """Which chunks there are, ascending numbers in the order of C."""
    target_of: Array
    """The file of each, or ``INLINE``."""
    begins: Array
    """Its first byte, or which of ``inline`` it is."""
    nbytes: Array
    """Its bytes in the file, or ``TO_THE_END``."""
    inline: tuple[bytes, ...]
    """Chunks in the references themselves."""

    @property
    def grid(self) -> tuple[int, ...]:
        """The number of chunks along each axis."""
        return tuple(-(-size // chunk) for size, chunk in zip(self.shape, self.chunk_shape, strict=True))

    def targets_of(self, spans: Sequence[RowSpan]) -> list[str]:
        """Return the files that hold spans of rows."""
        rows, columns = self.chunk_shape[0], math.prod(self.grid[1:])
        edges = [(lo // rows * columns, -(-hi // rows) * columns) for lo, hi, _ in spans]
        places = np.searchsorted(self.numbers, np.array(edges, np.int64).reshape(-1, 2)).tolist()
        found = {at for lo, hi in places for at in np.unique(self.target_of[lo:hi]).tolist()}
        return [self.targets[at] for at in sorted(found - {INLINE})]

    def read_spans(self, files: Mapping[str, tuple[RangeFile, int]], spans: Sequence[RowSpan], out: Array) -> None:
        """Read spans of rows to their places in ``out``, from open files and their sizes."""
        read_chunks(self.shape, self.chunk_shape, spans, out, partial(self._chunk, files))

    def _chunk(self, files: Mapping[str, tuple[RangeFile, int]], at: tuple[int, ...]) -> Array:
        number = int(np.ravel_multi_index(at, self.grid))
        place = int(np.searchsorted(self.numbers, number))
        if place == len(self.numbers) or self.numbers[place] != number:
            return np.broadcast_to(self.fill, self.chunk_shape)
        nbytes = self.dtype.itemsize * math.prod(self.chunk_shape)
        content = self._stored(files, place, 2 * nbytes + 1024)
        for decode in self.decoders:
            content = decode(content, nbytes)
        if len(content) != nbytes:
            raise ValueError(f"chunk {at} decodes to {len(content)} bytes, not {nbytes}")
        return content.view(self.dtype).reshape(self.chunk_shape)

    def _stored(self, files: Mapping[str, tuple[RangeFile, int]], place: int, most: int) -> Array:
        """Return the bytes of a chunk, which codecs make no longer than ``most``."""
        begin, nbytes = int(self.begins[place]), int(self.nbytes[place])
        if self.target_of[place] == INLINE:
            return np.frombuffer(self.inline[begin], "u1")
        target = self.targets[self.target_of[place]]
        file, size = files[target]
        if nbytes == TO_THE_END:
            nbytes = size
        if begin + nbytes > size or nbytes > most:
            raise ValueError(f"a chunk claims bytes {begin} to {begin + nbytes} of {target}, which has {size}")
        content = np.empty(nbytes, "u1")
        file.read_into(begin, content.data)
        return content


# ------------------------------------------------------------------------------
# Codecs
# ------------------------------------------------------------------------------


def _decoders(described: Mapping[str, Any]) -> tuple[Decoder, ...]:
    """Return how chunks are decoded: the compressor was applied last.

    Raises
    ------
    ValueError
        There are other codecs than those that are read.
    """
    configs = [*(described.get("filters") or []), described.get("compressor")]
    return tuple(_decoder(config) for config in reversed(configs) if config is not None)


def _decoder(config: Mapping[str, Any]) -> Decoder:
    match config["id"]:
        case "zlib":
            return partial(_inflated, zlib.MAX_WBITS)
        case "gzip":
            return partial(_inflated, zlib.MAX_WBITS + 16)
        case "shuffle":
            return partial(_unshuffled, int(config.get("elementsize", 4)))
        case "blosc" | "zstd":
            return partial(_decoded, import_module("numcodecs").get_codec(dict(config)))
        case codec:
            raise ValueError(
                f"its chunks have the codec {codec!r}, and blosc, gzip, shuffle, zlib and zstd are read; attach the "
                "files themselves, or copy them with gate.read"
            )


def _inflated(window_bits: int, content: Array, nbytes: int) -> Array:
    stream = zlib.decompressobj(window_bits)
    found = stream.decompress(content.data, nbytes + 1)
    if not stream.eof:
        raise ValueError(f"a chunk does not end after {nbytes} decoded bytes")
    return np.frombuffer(found, "u1")


def _unshuffled(itemsize: int, content: Array, nbytes: int) -> Array:
    return unshuffled(content, itemsize)


def _decoded(codec: Any, content: Array, nbytes: int) -> Array:
    out = np.empty(nbytes, "u1")
    codec.decode(content, out)  # refuses another size
    return out


# ------------------------------------------------------------------------------
# References
# ------------------------------------------------------------------------------


def referenced_arrays(path: str, group: str) -> dict[str, str]:
    """Return the arrays of a group: their names, and where they are; or the one that is meant.

    Raises
    ------
    ValueError
        The references are of a kind that is not read, or have no such group.
    """
    arrays, place = _load(path, state_of(path)), group.strip("/")
    if place in arrays:
        return {place.rpartition("/")[2]: place}
    parents = {name: name.rpartition("/") for name in arrays}
    found = {last: name for name, (parent, _, last) in parents.items() if parent == place}
    if not found:
        raise ValueError(f"it has no arrays there (arrays: {', '.join(sorted(arrays)) or 'none'})")
    return {last: name for last, name in found.items() if _parsed(arrays[name][".zarray"])["shape"]}


def referenced_chunks(path: str, inside: str) -> ReferencedChunks:
    """Return the chunks of an array.

    Raises
    ------
    KeyError
        There is no such array.
    ValueError
        It is of a kind that is not read.
    DtypeError
        Its numbers stand for other ones, or for missing values.
    """
    items = _load(path, state_of(path))[inside]
    described, about = _parsed(items[".zarray"]), _parsed(items.get(".zattrs", {}))
    _require_plain_numbers(about, f"variable {inside!r} of {path}")
    if described.get("order", "C") != "C" and len(described["chunks"]) > 1:
        raise ValueError("its chunks lie column after column (order F); copy it")
    if not isinstance(described["dtype"], str):
        raise ValueError(f"its rows are records of {described['dtype']}; copy it")
    shape, dtype = tuple(map(int, described["shape"])), np.dtype(described["dtype"])
    chunk_shape = tuple(max(1, int(size)) for size in described["chunks"])
    fill = _fill(described.get("fill_value"), dtype)
    grid = [-(-size // chunk) for size, chunk in zip(shape, chunk_shape, strict=True)]
    if min(shape, default=0) < 0 or math.prod(grid) >= 2**62:
        raise ValueError(f"its shape {shape} cannot be")
    separator = described.get("dimension_separator") or "."
    key = re.compile(r"\d{1,18}" + (re.escape(separator) + r"\d{1,18}") * (len(shape) - 1))
    found: list[tuple[int, int, int, int]] = []
    targets: dict[str, int] = {}
    inline: list[bytes] = []
    for name, reference in items.items():
        at = [int(text) for text in name.split(separator)] if key.fullmatch(name) else []
        if len(at) != len(shape) or any(number >= most for number, most in zip(at, grid, strict=True)):
            continue  # zarr never reads those either
        number = int(np.ravel_multi_index(at, grid)) if at else 0
        if isinstance(reference, str):
            found.append((number, INLINE, len(inline), TO_THE_END))
            inline.append(_inline(reference))
        else:
            url, begin, nbytes = _range(reference)
            found.append((number, targets.setdefault(url, len(targets)), begin, nbytes))
    numbers, target_of, begins, sizes = np.array(sorted(found), np.int64).reshape(-1, 4).T.copy()
    where = tuple(_target(url, path) for url in targets)
    decoders = _decoders(described)
    return ReferencedChunks(
        shape, chunk_shape, dtype, decoders, fill, where, numbers, target_of, begins, sizes, tuple(inline)
    )


@lru_cache(maxsize=4)
def _load(path: str, state: FileState) -> Mapping[str, Mapping[str, Any]]:
    """Return what is said of each array: its metadata, and chunks by their names in it."""
    if os.path.isdir(path):
        raise ValueError("references in Parquet are not read; write them as JSON")
    with open(path, "rb") if not is_url(path) else open_to_read(path) as file:
        document = json.load(file)
    if not isinstance(document, dict) or document.get("version") != 1 or not isinstance(document.get("refs"), dict):
        raise ValueError("it is no JSON of kerchunk's references, version 1")
    if document.get("gen"):
        raise ValueError(
            "it generates references (gen), which is not read; write them out, as kerchunk.utils.consolidate"
        )
    refs, templates = document["refs"], document.get("templates") or {}
    if any(key.rpartition("/")[2] == "zarr.json" for key in refs):
        raise ValueError("it has metadata of zarr's format 3; kerchunk's references have format 2")
    arrays: dict[str, dict[str, Any]] = {
        key.removesuffix(".zarray").rstrip("/"): {} for key in refs if key.rpartition("/")[2] == ".zarray"
    }
    for key, value in refs.items():
        parent = key
        while parent:  # chunks may have slashes in their names
            parent = parent.rpartition("/")[0]
            if parent in arrays:
                is_range = isinstance(value, list) and value and isinstance(value[0], str)
                full = [_with_templates(value[0], templates), *value[1:]] if is_range else value
                arrays[parent][key[len(parent) :].lstrip("/")] = full
                break
    return arrays


def _with_templates(url: str, templates: Mapping[str, Any]) -> str:
    """Return a URL with templates put in for their names; what needs more than that is refused."""

    def put_in(found: re.Match[str]) -> str:
        return str(templates.get(found[1], found[0]))

    full = _TEMPLATE.sub(put_in, url)
    if "{{" in full or "{%" in full:
        raise ValueError(f"{url!r} has a template of jinja, which is not read; write the URLs out")
    return full


def _parsed(text: Any) -> Mapping[str, Any]:
    """Return metadata, which are texts of JSON or JSON."""
    if isinstance(text, str):
        text = json.loads(_inline(text))
    if not isinstance(text, dict):
        raise ValueError("its metadata is elsewhere, or no JSON of zarr")
    return text


def _inline(text: str) -> bytes:
    return base64.b64decode(text.removeprefix("base64:")) if text.startswith("base64:") else text.encode()


def _range(reference: Any) -> tuple[str, int, int]:
    """Return the URL, first byte and length of a chunk."""
    match reference:
        case [str(url)]:
            return url, 0, TO_THE_END
        case [str(url), int(begin), int(nbytes)] if 0 <= begin < 2**62 and 0 <= nbytes < 2**62:
            return url, begin, nbytes
    raise ValueError(f"{reference!r} is no URL, or no URL with an offset and a length")


def _target(url: str, path: str) -> str:
    """Return the path or URL of a target; a relative path begins where the references are."""
    for scheme in ("file://", "local://"):
        url = url.removeprefix(scheme)
    if is_url(url) or os.path.isabs(url):
        return url
    if is_url(path):
        raise ValueError(f"it names {url!r}, a path without a directory; write URLs")
    return os.path.join(os.path.dirname(path), url)


def _fill(value: Any, dtype: np.dtype[Any]) -> Array:
    """Return a fill value of zarr's format 2, as an array without axes; zero if it has none."""
    if value is None:
        return np.zeros((), dtype)
    if dtype.kind == "c":
        value = complex(*map(float, value)) if isinstance(value, list) else value
    elif dtype.kind == "f":
        value = float(value)  # also of "NaN" and "Infinity"
    elif dtype.kind == "S":
        value = base64.b64decode(value)
    return np.asarray(value, dtype)


def _require_plain_numbers(about: Mapping[str, Any], what: str) -> None:
    """Raise DtypeError if values stand for other numbers, or for missing ones, by the conventions CF."""
    odd = [name for name in OTHER_NUMBERS if about.get(name) not in (None, "false")]
    odd += [name for name in MISSING if name in about and not _is_nan(about[name])]
    if odd:
        raise DtypeError(
            f"{what} has the attribute {odd[0]} = {about[odd[0]]!r}: its numbers mean others, or missing values, which "
            "are not converted in place; copy it, as in add_data(xarray.open_dataset(...))"
        )


def _is_nan(value: Any) -> bool:
    """Return whether an attribute is NaN, which VirtualiZarr writes in the base of 64."""
    try:
        if isinstance(value, str) and value.lower() != "nan":
            content = base64.b64decode(value)
            value = np.frombuffer(content, f"<f{len(content)}")
        return bool(np.isnan(np.asarray(value, float)).all())
    except (TypeError, ValueError):
        return False
