"""Benchmarks: how fast StoreGate is, beside the raw file and the other ways to do the same.

Scripts, not tests: nothing here asserts a time. ``python -m benchmarks --help`` lists them.
"""
