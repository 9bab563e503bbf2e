"""What the user's terminal cannot show must not end a run."""

from __future__ import annotations

import io
import sys


def show_what_can_be_shown() -> None:
    """Characters that standard output's encoding lacks (±, ü in ASCII or Latin-1) are spelt out, such as ``\\xb1``."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")
