"""``python -m runner`` is the command ``runner``."""

from __future__ import annotations

import sys

from runner.cli import main

sys.exit(main())
