"""The lazy, chunked array engine under StoreGate; knows nothing of StoreGate's interface.

The rooms of the house, from the top. A room imports only from rooms below it:

=================  ====================================================================================
``testing``        strategies and models for tests of stores
``fingerprints``   what rows are, as a hash of their values and logical order alone
``vacuum``         versions, segments and left files that nobody needs any more, and their removal
``verify``         whether all that is referred to is there and as it was written
``streams``        batches for a training loop: what they are made of, and where they are
``stream_spills``  rows of an epoch in any order, by way of spill
``stream_loads``   reads the rows of a stream's epochs, ahead of the batches
``lazy``           variables -> dask arrays -> :class:`xarray.Dataset`
``persisted``      rows on the workers of a cluster in any order; the layer over blocks
``layers``         the one dask graph layer, which looks at what is asked of it
``rewrite``        the logical rows of variables as new arrays in that order
``passes``         whole exchanges of variables that share an order, in two or three passes
``tasks``          functions in threads, or on the active cluster
``tiers``          persist to memory, here or on a cluster
``exchange``       exact permutation on disk: scatter, then collect
``roots``          the directory or URL that holds the data_ids
``memory``         one data_id's table in the memory of this process
``stored``         one data_id's table in storage
``repository``     one data_id's committed table, and the transactions that make its next state
``history``        what one state of a table has that another has not (pure)
``sources``        anything that holds rows, as blocks of rows in order
``states``         a table as the JSON of a manifest, and back
``table``          Variable, Phase, Table: immutable state and the operations on it
``pieces``         rows of one array, and the transforms they go through when they are read
``manifests``      committed states of a table; the commit protocol
``segments``       new arrays in storage, written once
``arrays``         arrays that can be read, stored or in memory, and the one protocol over them
``checksums``      what the rows of a shard sum up to (pure)
``stream_orders``  which rows make which batch, of every rank and epoch (pure)
``plans``          which way permuted rows are read, and what that takes (pure)
``shards``         the files of a sharded zarr array, read and written in place
``spill``          directories of scratch files
``spill_files``    segments of rows in one checksummed file
``order_json``     orders as JSON, and back
``settings``       what dask's configuration says under ``storegate``
``transforms``     Cast, OneHot, ArgMax (pure)
``orders``         RowOrder algebra (pure)
``permutations``   tables of numpy permutations, and the keyed bijection for more rows than they can hold
``guards``         a zarr store through which codecs get only chunks that can be right
``frames``         one chunk as the bytes of a file, and back
``shard_index``    where the chunks of a shard lie in its file
``inspection``     whether stored metadata and shards are such as are written here
``budget``         memory budget; chunk, block and bucket sizes (pure)
``buffers``        memory that is used again, and bytes into files
``documents``      JSON that nobody has to trust
``encodings``      which dtypes can be stored, and as what
``locations``      a path or URL as a zarr store
``names``          validated names
``errors``         the exception tree
=================  ====================================================================================

Import from the rooms themselves; this module imports nothing.
"""
