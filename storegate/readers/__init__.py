"""Readers: files of other formats as tables that ``add_data`` takes; each format is one small module.

What its files know:

    protocol  what a reader of a format is, and the options of ``gate.read``
    formats   which reader a file is for: our own, and those of other packages
    paths     globs, groups inside of files, and the order of files
    joined    the columns of many files, one file after the other
    hdf5      HDF5, and NetCDF4
"""

from __future__ import annotations

from storegate.readers.joined import columns_of_files
from storegate.readers.protocol import Reader, ReadOptions

__all__ = ["ReadOptions", "Reader", "columns_of_files"]
