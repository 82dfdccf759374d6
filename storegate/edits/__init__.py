"""Edits: new tables from old, and the calls that store them.

What its files know:

    tables     new states of a table from rows that are written; pure
    writes     what the calls that add and replace rows do inside of their transaction
    transfers  variables between memory and storage
"""
