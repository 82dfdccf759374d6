"""Orders: which stored row stands behind a logical row; pure index arithmetic."""
