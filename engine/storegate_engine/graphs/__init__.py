"""Graphs: variables as dask arrays and Datasets."""
