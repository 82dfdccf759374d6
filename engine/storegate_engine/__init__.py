"""The lazy, chunked array engine under StoreGate; knows nothing of StoreGate's interface.

Seven rooms on a common ground. A room imports only from rooms above it in this list, and only the names in their
``__init__``; `graphs`, `store` and `streams` do not import each other. Each room's docstring describes its files.

The ground, which every room may use:

    errors       the exception tree, and hints for messages
    names        valid names of data_ids and variables
    identifiers  names in hexadecimal digits
    integers     sorting and grouping row numbers by integer keys
    buffers      reused memory, rows as bytes, and bytes into files
    budget       available memory, and the sizes of chunks, shards and blocks that fit in it
    settings     the ``storegate.*`` keys of dask's configuration
    casts        values that another dtype holds unchanged
    dtypes       dtypes that can be stored, and their names
    arrow        columns of Arrow as plain ndarrays
    natives      callers' data as plain ndarrays
    encodings    values as zarr v3 stores them, and back
    texts        bytes of variable-length text
    ragged       rows of various lengths in memory
    slices       runs of items, gathered or side by side
    optional     packages of extras, imported when they are needed
    documents    untrusted JSON
    directories  files below a root, which no link leaves
    objects      the stores of zarr-python, adapted
    locations    a path or URL as a zarr store
    contents     the keys of a store
    temporaries  directories that are removed after their last use
    threads      threads whose users may be interrupted at any moment
    submitted    objects kept while clients of a cluster wait for graphs that need them
    clusters     the memory and threads of a dask cluster's workers
    locks        files that processes lock, and tasks that they claim
    holds        locks on directories of scratch files, and their places
    scratch      directories of spills: created, shared, adopted after a crash, removed

The rooms:

    orders       the stored row of each logical row; pure
    arrays       rows as bytes, written once and read in place
    table        variables, pieces and transforms: immutable state
    exchange     an exact permutation of more rows than memory holds, and its plan
    store        committed tables: written, kept and checked
    graphs       variables as dask arrays and Datasets
    streams      batches of rows for training

    testing      Hypothesis strategies and a reference model, for others to reuse
"""
