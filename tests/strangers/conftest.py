"""The scripts here are run by their test, each in a process and a directory of its own."""

from __future__ import annotations

from pathlib import Path

collect_ignore = [path.name for path in Path(__file__).parent.glob("from_*.py")]
