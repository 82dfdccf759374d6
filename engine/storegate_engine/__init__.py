"""The lazy, chunked array engine under StoreGate; knows nothing of StoreGate's interface.

Seven rooms on a common ground. A room imports only from rooms above it in this list, and of another room only what its
``__init__`` lists; `graphs`, `store` and `streams` do not know each other. Each room's docstring says what its files
know.

The ground, which every room may use:

    errors       the exception tree, and how a message names near matches
    names        what a data_id or a variable may be called
    identifiers  names in hexadecimal digits
    integers     sorting row numbers by what they belong to
    buffers      memory that is used again, rows as the bytes that they are
    budget       how much memory there is, and the sizes of chunks, shards and blocks that fit in it
    settings     the ``storegate.*`` keys of dask's configuration
    casts        which values stay what they are under another dtype
    dtypes       which dtypes can be stored, and the texts that stand for them
    encodings    values as what zarr v3 has for them, and back
    texts        how many bytes variable-length text takes
    documents    JSON that nobody has to trust
    directories  what lies below a root, out of which no link leads
    objects      the stores of zarr-python as they are used here
    locations    a path or URL as a zarr store
    contents     which keys a store of ours has
    temporaries  directories that go when nobody needs them any more
    threads      threads whose users may be interrupted at any moment
    submitted    what clients of a cluster wait for while graphs are sent
    clusters     what the workers of a dask cluster have, there or promised
    holds        which process has a directory of scratch files, and where these lie
    scratch      directories of spill: made, shared, adopted after a crash, removed

The rooms:

    orders       which stored row stands behind a logical row; pure
    arrays       rows as bytes, written once and read in place
    table        variables, pieces and transforms: immutable state
    exchange     an exact permutation of more rows than memory holds, and its plan
    store        committed tables: what is written, kept and checked
    graphs       variables as dask arrays and Datasets
    streams      batches of rows for training

    testing      strategies and a model that the tests of others may use
"""
