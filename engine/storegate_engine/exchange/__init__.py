"""Exchange: an exact permutation of more rows than memory holds, on disk, and its plan."""
