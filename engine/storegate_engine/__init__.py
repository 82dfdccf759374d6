"""The lazy, chunked array engine under StoreGate; knows nothing of StoreGate's interface.

A module imports only from those below it; docs/explanation/architecture.md says what each of them knows. Import from
the modules themselves; this one imports nothing.
"""
