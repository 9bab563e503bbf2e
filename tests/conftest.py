"""Without a GPU, Triton's interpreter runs the CUDA kernels; it must be chosen before anything imports triton.

Property tests try the same examples every time; ``pytest --hypothesis-profile=default`` looks for new ones.
"""

from __future__ import annotations

import os
from contextlib import suppress

if not any(os.path.exists(path) for path in ("/dev/nvidia0", "/dev/nvidiactl")):
    os.environ.setdefault("TRITON_INTERPRET", "1")

with suppress(ModuleNotFoundError):  # a GPU machine needs no more than pytest for tests/gpu
    from hypothesis import settings

    settings.register_profile("repeatable", derandomize=True, deadline=None)
    settings.load_profile("repeatable")
