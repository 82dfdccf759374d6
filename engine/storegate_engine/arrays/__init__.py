"""Arrays: rows as bytes, written once and read in place."""
