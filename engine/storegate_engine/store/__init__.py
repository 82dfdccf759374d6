"""Store: committed tables; what is written, kept and checked."""
