"""The lazy, chunked array engine under StoreGate; knows nothing of StoreGate's interface.

The rooms of the house, from the top. A room imports only from rooms below it:

=================  ===================================================================================
``testing``        strategies and models for tests of stores
``streams``        batches for a training loop: what they are made of, and where they are
``stream_loads``   reads the rows of a stream's epochs, ahead of the batches
``lazy``           variables -> dask arrays -> :class:`xarray.Dataset`; the one dask graph layer
``rewrite``        the logical rows of variables as new arrays in that order
``tiers``          persist to memory, here or on a cluster
``exchange``       exact permutation on disk: scatter, then collect
``roots``          the directory or URL that holds the data_ids
``repository``     one data_id's committed table, and the transactions that make its next state
``sources``        anything that holds rows, as blocks of rows in order
``states``         a table as the JSON of a manifest, and back
``table``          Variable, Phase, Table: immutable state and the operations on it
``manifests``      committed states of a table; the commit protocol
``segments``       new arrays in storage, written once
``arrays``         arrays that can be read, stored or in memory, and the one protocol over them
``stream_orders``  which rows make which batch, of every rank and epoch (pure)
``plans``          which way permuted rows are read, and what that takes (pure)
``spill``          directories of scratch files
``order_json``     orders as JSON, and back
``settings``       what dask's configuration says under ``storegate``
``transforms``     Cast, OneHot, ArgMax (pure)
``orders``         RowOrder algebra (pure)
``permutations``   tables of numpy permutations, and the keyed bijection for more rows than they can hold
``budget``         memory budget; chunk, block and bucket sizes (pure)
``encodings``      which dtypes can be stored, and as what
``locations``      a path or URL as a zarr store and as a tensorstore address
``names``          validated names
``errors``         the exception tree
=================  ===================================================================================

Import from the rooms themselves; this module imports nothing.
"""
