"""Without a GPU, Triton's interpreter runs the CUDA kernels; it must be chosen before anything imports triton.

Property tests try the same examples every time; ``pytest --hypothesis-profile=default`` looks for new ones.
"""

from __future__ import annotations

import os

from hypothesis import settings

if not any(os.path.exists(path) for path in ("/dev/nvidia0", "/dev/nvidiactl")):
    os.environ.setdefault("TRITON_INTERPRET", "1")

settings.register_profile("repeatable", derandomize=True, deadline=None)
settings.load_profile("repeatable")
