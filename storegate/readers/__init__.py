"""Readers: files of other formats as tables that ``add_data`` takes; each format is one small module.

What its files know:

    protocol     what a reader of a format is, and the options of ``gate.read``
    formats      which reader a file is for: our own, and those of other packages
    paths        globs, groups inside of files, and the order of files
    joined       the columns of many files, one file after the other
    batches      record batches of Arrow, as a table
    groups       the arrays of a group that are variables
    lists        lists and sparse matrices, each a group of arrays
    hdf5         HDF5, and NetCDF4
    netcdf       what files of NetCDF4 say about their arrays
    dimensions   arrays whose dimensions have names, in NetCDF4 and zarr
    cf_values    numbers in them that mean times, durations, truths or missing values
    parquet      Parquet
    arrow        Arrow and Feather
    npy          numpy's own files
    delimited    CSV
    root         TTrees and RNTuples of ROOT
    zarr_arrays  zarr
    h5ad         AnnData
    images       folders of images
"""

from __future__ import annotations

from storegate.readers.formats import attached_files, labels_in
from storegate.readers.joined import columns_of_files
from storegate.readers.protocol import Reader, ReadOptions

__all__ = ["ReadOptions", "Reader", "attached_files", "columns_of_files", "labels_in"]
