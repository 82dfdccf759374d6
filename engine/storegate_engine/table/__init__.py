"""Table: variables, pieces and transforms; immutable state."""
