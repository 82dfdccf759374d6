"""``python -m storegate`` is the command ``storegate``."""

from __future__ import annotations

import sys

from storegate.cli import main

if __name__ == "__main__":
    sys.exit(main())
