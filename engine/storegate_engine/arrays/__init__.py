"""Arrays: rows as bytes, written once and read in place.

What its files know:

    rows             the protocol of arrays of rows, and arrays in memory
    stored           arrays of rows in storage, opened and read
    ragged_arrays    rows of various lengths, in other arrays
    persisted        rows persisted on the workers of a cluster
    foreign          rows of files that other programs wrote
    source_files     those files: lists of them, and whether one may be opened
    foreign_formats  one array in such a file, read by the library of its format
    kerchunk         arrays whose chunks are ranges of other files
    file_states      files by path or URL, and whether one is still the same
    byte_ranges      rows at known places of such a file, read without its library
    segments         new arrays of rows in storage
    shard_writes     rows as whole shards of a new array
    shards           the shards of a sharded zarr array
    shard_files      those on a file system, and what any place of shards can do
    shard_objects    those in an object store
    shard_cache      local copies of these
    shard_index      the places of the chunks of a shard in its file
    reading_threads  the threads that read
    frames           one chunk of rows as the bytes of a file, and back
    guards           a zarr store that checks chunks before a codec gets them
    inspection       checks that stored metadata is as this library writes it
    statistics       smallest and largest values, counted while rows are written
    checksums        checksums of the rows of a shard, independent of codecs
    checks           checks that the stored rows of an array are unchanged
"""

from __future__ import annotations

from storegate_engine.arrays.checks import check_array
from storegate_engine.arrays.checksums import Written, of_written
from storegate_engine.arrays.file_states import open_to_read
from storegate_engine.arrays.foreign import ForeignArray
from storegate_engine.arrays.foreign_formats import FORMATS, arrays_in, name_in_netcdf, open_foreign, targets_of
from storegate_engine.arrays.inspection import require_within_limits
from storegate_engine.arrays.persisted import PersistedArray, persist
from storegate_engine.arrays.ragged_arrays import RaggedArray
from storegate_engine.arrays.reading_threads import FETCHED_NBYTES, fetching_until, run_tasks
from storegate_engine.arrays.rows import ConstantArray, Fileless, Held, MemoryArray, RowArray, Shared, Windowed
from storegate_engine.arrays.segments import ArraySpec, Compressor, Segment, SegmentWriter, made_at
from storegate_engine.arrays.shard_writes import MAX_TEXT_NBYTES, write_rows
from storegate_engine.arrays.shards import RowSpan
from storegate_engine.arrays.source_files import close_files, files_in, list_of, source_file
from storegate_engine.arrays.statistics import Statistics, Tally, joined
from storegate_engine.arrays.stored import StoredArray, StoredIndex

__all__ = [
    "FETCHED_NBYTES",
    "FORMATS",
    "MAX_TEXT_NBYTES",
    "ArraySpec",
    "Compressor",
    "ConstantArray",
    "Fileless",
    "ForeignArray",
    "Held",
    "MemoryArray",
    "PersistedArray",
    "RaggedArray",
    "RowArray",
    "RowSpan",
    "Segment",
    "SegmentWriter",
    "Shared",
    "Statistics",
    "StoredArray",
    "StoredIndex",
    "Tally",
    "Windowed",
    "Written",
    "arrays_in",
    "check_array",
    "close_files",
    "fetching_until",
    "files_in",
    "joined",
    "list_of",
    "made_at",
    "name_in_netcdf",
    "of_written",
    "open_foreign",
    "open_to_read",
    "persist",
    "require_within_limits",
    "run_tasks",
    "source_file",
    "targets_of",
    "write_rows",
]
