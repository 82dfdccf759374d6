"""Streams: batches of rows for training."""
