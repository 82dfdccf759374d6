"""Parsing: what callers give, as typed values; reads no rows of a gate.

What its files know:

    inputs     ``var_names``, ``data``, ``shuffle``, shapes and dtypes
    phases     names of phases, and splits
    options    ``backend`` and ``backend_args``
    selection  which rows an index means
    iterators  single samples, as blocks of rows
"""
