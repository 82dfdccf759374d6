"""Stores that mean harm: each way to damage one, and how all of one is read."""

from __future__ import annotations

import gzip
import hashlib
import json
import os
import shutil
import struct

import numcodecs
import numpy as np
from crc32c import crc32c

from storegate import StoreGate
from storegate_engine import documents
from storegate_engine.store import ArraySource

ROWS = np.random.default_rng(0).random((64, 16), dtype="f4")
SECRET = b"do not read me"


def read_all(store):
    gate = StoreGate("zarr", {"output_dir": store, "mode": "r"}, "a")
    for name in gate.get_var_names():
        gate.get_data(name)
        gate["train"][name].data.compute(scheduler="sync")
        gate.verify()
    return gate


def head(store):
    return max((store / "a" / "manifests").glob("*.json"))


def edit_manifest(store, edit, *, sign=True):
    """Change the newest manifest, with a checksum that fits: who writes a store can compute one."""
    document = json.loads(head(store).read_text())
    document.pop("checksum")
    edit(document)
    canonical = json.dumps(document, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    document["checksum"] = hashlib.sha256(canonical.encode()).hexdigest() if sign else "0" * 64
    head(store).write_text(json.dumps(document, ensure_ascii=False))


def array_of(name):
    return lambda document: next(a for a in document["state"]["arrays"] if a.get("name") == name)


def set_in_array(name, /, **values):
    return lambda store: edit_manifest(store, lambda document: array_of(name)(document).update(values))


def set_in_variable(**values):
    def edit(document):
        document["state"]["phases"]["train"][0].update(values)

    return lambda store: edit_manifest(store, edit)


def set_in_manifest(**values):
    return lambda store: edit_manifest(store, lambda document: document.update(values))


def array_path(store, name="x"):
    return next(path for path in sorted(store.glob(f"a/segments/*/{name}")) if (path / "c").exists())


def set_in_metadata(name="x", /, **values):
    def damage(store):
        path = array_path(store, name) / "zarr.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), **values}))

    return damage


def set_codecs(*codecs, name="x", **sharding):
    def damage(store):
        path = array_path(store, name) / "zarr.json"
        document = json.loads(path.read_text())
        configuration = document["codecs"][0]["configuration"]
        if codecs:
            configuration["codecs"] = [{"name": codec, "configuration": {}} for codec in codecs]
        configuration.update(sharding)
        path.write_text(json.dumps(document))

    return damage


def raw_manifest(content):
    return lambda store: head(store).write_bytes(content)


def raw_marker(content):
    return lambda store: (store / "storegate.json").write_bytes(content)


def replace_by_link(find, target):
    """Put a link in the place of a file or directory; what it leads to lies outside of the root."""

    def damage(store):
        path = find(store)
        moved = store.parent / "moved"
        if path.is_dir():
            shutil.move(path, moved)
            path.symlink_to(moved if target is None else target, target_is_directory=True)
        else:
            shutil.move(path, moved)
            path.symlink_to(moved if target is None else target)

    return damage


def shard_of(store, name="x"):
    return next(path for path in sorted((array_path(store, name) / "c").rglob("*")) if path.is_file())


def bomb(compressor):
    """Replace the first chunk of a shard by one that decodes to 300 MB, with a checksum and an index that fit."""

    def damage(store):
        if compressor != "blosc":
            gate = StoreGate("zarr", {"output_dir": store, "mode": "w", "chunk": 16, "compressor": compressor}, "a")
            gate.add_data("x", ROWS)
        path = shard_of(store)
        zeros = bytes(300 * 10**6)
        if compressor == "blosc":
            encoded = numcodecs.Blosc("zstd", 9, shuffle=0).encode(zeros)
        elif compressor == "zstd":
            encoded = numcodecs.Zstd(3).encode(zeros)
        else:
            encoded = gzip.compress(zeros)
        del zeros
        encoded = bytes(encoded)
        encoded += struct.pack("<I", crc32c(encoded))
        index = np.frombuffer(path.read_bytes()[-(16 * 4 + 4) : -4], "<u8").reshape(4, 2).copy()
        index[0] = (0, len(encoded))
        packed = index.tobytes()
        path.write_bytes(encoded + packed + struct.pack("<I", crc32c(packed)))

    return damage


def text_chunk(compressor, content, *, hole=0):
    """Replace the first chunk of a text's shard, with checksums and an index that fit; leave a hole behind it."""

    def damage(store):
        codec = numcodecs.GZip(1) if compressor == "gzip" else compressor
        args = {"output_dir": store, "mode": "w", "chunk": 16, "compressor": codec}
        StoreGate("zarr", args, "a").add_data("t", np.array(["a", "bc"] * 32, np.dtypes.StringDType()))
        path = shard_of(store, "t")
        whole = path.read_bytes()
        index = np.frombuffer(whole[-(16 * 4 + 4) : -4], "<u8").reshape(4, 2).copy()
        encoded = content()
        encoded += struct.pack("<I", crc32c(encoded))
        index[0] = (len(whole), len(encoded))
        packed = index.tobytes()
        with open(path, "r+b") as file:
            file.seek(0, 2)
            file.write(encoded)
            file.seek(hole, 2)
            file.write(packed + struct.pack("<I", crc32c(packed)))

    return damage


def texts(count=16, padding=0):
    """Return a chunk of empty texts as vlen-utf8 has it, which says that it holds so many."""
    return struct.pack("<I", count) + bytes(4 * 16 + padding)


def zstd_frames(*contents):
    return lambda: b"".join(bytes(numcodecs.Zstd(3).encode(content)) for content in contents)


def gzip_members(*contents):
    return lambda: b"".join(gzip.compress(content, 1) for content in contents)


def with_index(rows):
    """Let a variable be read by an index of its own."""

    def damage(store):
        gate = StoreGate("zarr", {"output_dir": store}, "a")
        with gate.repository().begin("x") as change:
            array = change.store({"index": ArraySource(np.array(rows))})["index"]
            change.edit(lambda table: table)
        set_in_variable(order=["take", ["range", 0, 64], array.to_json()])(store)

    return damage


def fifo(store):
    path = shard_of(store)
    path.unlink()
    os.mkfifo(path)


def fifo_manifest(store):
    path = head(store)
    path.unlink()
    os.mkfifo(path)


def huge_index(store):
    path = shard_of(store)
    content = path.read_bytes()
    index = np.frombuffer(content[-(16 * 4 + 4) : -4], "<u8").reshape(4, 2).copy()
    index[0] = (0, 2**40)
    packed = index.tobytes()
    path.write_bytes(content[: -(16 * 4 + 4)] + packed + struct.pack("<I", crc32c(packed)))


def sparse_manifest(store):
    with open(head(store), "r+b") as file:
        file.truncate(10**12)


def v2_segment(store):
    path = array_path(store)
    (path / "zarr.json").unlink()
    (path / ".zarray").write_text(
        '{"zarr_format": 2, "shape": [64, 16], "chunks": [64, 16], "dtype": "|O", "compressor": null, '
        '"fill_value": null, "order": "C", "filters": [{"id": "pickle"}]}'
    )


CORPUS = {
    # manifests: the text
    "manifest: not JSON": raw_manifest(b"{"),
    "manifest: not UTF-8": raw_manifest(b'{"format": "\xff\xfe"}'),
    "manifest: a list": raw_manifest(b"[]"),
    "manifest: nested deep": raw_manifest(b'{"state":' + b"[" * 10**6 + b"]" * 10**6 + b"}"),
    "manifest: deep objects": raw_manifest(b'{"a":' * 10**5 + b"1" + b"}" * 10**5),
    "manifest: many values": raw_manifest(b'{"state":[' + b"[]," * 15_000_000 + b"0]}"),
    "manifest: huge": raw_manifest(b" " * (documents.MAX_NBYTES + 1)),
    "manifest: a terabyte": sparse_manifest,
    "manifest: a number of a million digits": raw_manifest(b'{"version":' + b"9" * 10**6 + b"}"),
    "manifest: empty": raw_manifest(b""),
    "manifest: another checksum": lambda store: edit_manifest(store, lambda d: d.update(operation="x"), sign=False),
    "manifest: of another program": set_in_manifest(format="other"),
    "manifest: a newer format": set_in_manifest(format_version=2),
    "manifest: no state": lambda store: edit_manifest(store, lambda d: d.pop("state")),
    "manifest: no operation": lambda store: edit_manifest(store, lambda d: d.pop("operation")),
    "manifest: arguments that are none": set_in_manifest(arguments=7),
    "manifest: another version": set_in_manifest(version=9),
    "manifest: a device": replace_by_link(head, "/dev/zero"),
    "manifest: a link out of the root": replace_by_link(head, None),
    "manifest: a pipe": fifo_manifest,
    # manifests: what they refer to
    "segment: parent directory": set_in_array("x", segment="../../../../secret"),
    "segment: absolute path": set_in_array("x", segment="/etc"),
    "segment: no text": set_in_array("x", segment=7),
    "array: parent directory": set_in_array("x", name="../t"),
    "array: absolute path": set_in_array("x", name="/etc/passwd"),
    "array: control character": set_in_array("x", name="x\x00y"),
    "array: objects": set_in_array("x", dtype="O"),
    "array: fields": set_in_array("x", dtype=[["a", "f4"]]),
    "array: a dtype's code": set_in_array("x", dtype="f4,f4"),
    "array: wide text": set_in_array("x", dtype="U9999999"),
    "array: negative rows": set_in_array("x", n_rows=-1),
    "array: rows as text": set_in_array("x", n_rows="64"),
    "array: rows without end": set_in_array("x", n_rows=2**70),
    "array: huge rows": set_in_array("x", row_shape=[2**40]),
    "array: rows whose product wraps around": set_in_array("x", row_shape=[2**32, 2**32]),
    "array: many dimensions": set_in_array("x", row_shape=[1] * 70),
    "array: huge chunks": set_in_array("x", chunk_rows=2**40, shard_rows=2**40),
    "array: no chunks": set_in_array("x", chunk_rows=0),
    "array: another number of rows": set_in_array("x", n_rows=63),
    "array: another dtype": set_in_array("x", dtype="i4"),
    "variable: another dtype": set_in_variable(dtype="f8"),
    "variable: a name that is none": set_in_variable(name="../x"),
    "variable: a piece beyond its array": set_in_variable(pieces=[[0, 0, 10**9, []]]),
    "variable: a piece of no array": set_in_variable(pieces=[[-1, 0, 1, []]]),
    "variable: an unknown transform": set_in_variable(pieces=[[0, 0, 64, [["eval", "1"]]]]),
    "variable: a cast to objects": set_in_variable(pieces=[[0, 0, 64, [["cast", "|O"]]]]),
    "variable: an order beyond its rows": set_in_variable(order=["range", 0, 10**9]),
    "variable: an unknown order": set_in_variable(order=["import", "os"]),
    "variable: an order nested deep": set_in_variable(
        order=json.loads('["slice",' * 100 + '["range",0,64]' + ",0,64]" * 100)
    ),
    "variable: a pickled order": set_in_variable(order="gASVBQAAAAAAAABLAS4="),
    "constant: rows without end": lambda store: edit_manifest(
        store,
        lambda d: (
            d["state"]["arrays"].append({"constant": 0, "dtype": "f8", "row_shape": [], "n_rows": 2**50}),
            d["state"]["phases"]["train"].append(
                {
                    "name": "z",
                    "dtype": "f8",
                    "row_shape": [],
                    "pieces": [[len(d["state"]["arrays"]) - 1, 0, 2**50, []]],
                    "order": ["range", 0, 2**50],
                }
            ),
        ),
    ),
    "constant: a flag for a number": lambda store: edit_manifest(
        store,
        lambda d: d["state"]["arrays"].append({"constant": True, "dtype": "f8", "row_shape": [], "n_rows": 5}),
    ),
    "variable: flags for numbers": set_in_variable(pieces=[[False, 0, 64, []]]),
    "variable: fractions for numbers": set_in_variable(pieces=[[0, 0.0, 64.0, []]]),
    "variable: a shape of flags": set_in_variable(row_shape=[True]),
    "variable: pieces that are none": set_in_variable(pieces=7),
    "variable: many transforms": set_in_variable(pieces=[[0, 0, 64, [["cast", "<f8"], ["cast", "<f4"]] * 50_000]]),
    "variable: a cast to wide text": set_in_variable(pieces=[[0, 0, 64, [["cast", "<U2000000"]]]], dtype="U2000000"),
    "variable: classes without end": set_in_variable(pieces=[[0, 0, 64, [["cast", "<i8"], ["onehot", 2**62]]]]),
    "manifest: text that cannot be encoded": lambda store: head(store).write_text(
        json.dumps({**json.loads(head(store).read_text()), "operation": "\ud800"})
    ),
    "variable: an index of floats": with_index([1.0] * 64),
    "variable: an index beyond its rows": with_index(np.array([70, 2**32 - 1] * 32, np.uint32)),
    "manifest: a number of another type": set_in_manifest(kept_from="1"),
    "manifest: a flag for a number": set_in_manifest(rows_added=True),
    "manifest: a time without end": set_in_manifest(time=1e300),
    # metadata of arrays
    "metadata: not JSON": lambda store: (array_path(store) / "zarr.json").write_text("{"),
    "metadata: huge": lambda store: (array_path(store) / "zarr.json").write_bytes(b" " * 2**21),
    "metadata: nested deep": lambda store: (array_path(store) / "zarr.json").write_bytes(b"[" * 10**5),
    "metadata: zarr v2 with pickle": v2_segment,
    "metadata: format 2": set_in_metadata(zarr_format=2),
    "metadata: a group": set_in_metadata(node_type="group"),
    "metadata: another shape": set_in_metadata(shape=[2**40, 16]),
    "metadata: objects": set_in_metadata(data_type="object"),
    "metadata: an extension dtype": set_in_metadata(data_type={"name": "numpy.object", "configuration": {}}),
    "metadata: huge shards": set_in_metadata(
        chunk_grid={"name": "regular", "configuration": {"chunk_shape": [2**40, 16]}}
    ),
    "metadata: an unknown grid": set_in_metadata(chunk_grid={"name": "rectilinear", "configuration": {}}),
    "metadata: keys of another form": set_in_metadata(
        chunk_key_encoding={"name": "v2", "configuration": {"separator": "/"}}
    ),
    "metadata: storage transformers": set_in_metadata(storage_transformers=[{"name": "eval"}]),
    "metadata: no shards": set_in_metadata(codecs=[{"name": "bytes", "configuration": {"endian": "little"}}]),
    "metadata: codecs that are none": set_in_metadata(codecs="pickle"),
    "codec: pickle": set_codecs("bytes", "numcodecs.pickle", "crc32c"),
    "codec: pickle first": set_codecs("pickle", "crc32c"),
    "codec: unknown": set_codecs("bytes", "import os", "crc32c"),
    "codec: no checksum": set_codecs("bytes", "blosc"),
    "codec: a chain": set_codecs("bytes", "blosc", "blosc", "blosc", "crc32c"),
    "codec: text as numbers": set_codecs("bytes", "crc32c", name="t"),
    "codec: huge chunks": set_codecs(chunk_shape=[2**40, 16]),
    "codec: an index without checksum": set_codecs(index_codecs=[{"name": "bytes"}]),
    "codec: an index elsewhere": set_codecs(index_location="start"),
    # shards
    "shard: a blosc bomb": bomb("blosc"),
    "shard: a zstd bomb": bomb("zstd"),
    "shard: an index beyond the file": huge_index,
    "shard: a pipe": fifo,
    "shard: a device": replace_by_link(shard_of, "/dev/zero"),
    "shard: a link out of the root": replace_by_link(shard_of, None),
    "shard: a directory of them behind a link": replace_by_link(lambda store: array_path(store) / "c", None),
    "array behind a link": replace_by_link(array_path, None),
    "segment behind a link": replace_by_link(lambda store: array_path(store).parent, None),
    "text: two frames": text_chunk("zstd", zstd_frames(texts(), bytes(300 * 10**6))),
    "text: two members": text_chunk("gzip", gzip_members(bytes(300 * 10**6), texts())),
    "text: two members and an empty one": text_chunk("gzip", gzip_members(texts(), bytes(300 * 10**6), b"")),
    "text: a billion of them": text_chunk("none", lambda: texts(1_500_000_000)),
    "text: a billion of them, lz4": text_chunk("lz4", lambda: bytes(numcodecs.Blosc().encode(texts(1_500_000_000)))),
    "text: a billion of them, zstd": text_chunk("zstd", zstd_frames(texts(1_500_000_000))),
    "text: a hole before the index": text_chunk("none", texts, hole=10**10),
    # markers
    "marker: not JSON": raw_marker(b"\x80\x04."),
    "marker: a list": raw_marker(b"[]"),
    "marker: of another program": raw_marker(b'{"format": "other", "format_version": 1}'),
    "marker: a newer format": raw_marker(b'{"format": "storegate", "format_version": 99}'),
    "marker: nested deep": raw_marker(b"[" * 10**6),
    "marker: a link out of the root": replace_by_link(lambda store: store / "storegate.json", None),
}
