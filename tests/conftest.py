"""Without a GPU, Triton's interpreter runs the CUDA kernels; it must be chosen before anything imports triton."""

from __future__ import annotations

import os

if not any(os.path.exists(path) for path in ("/dev/nvidia0", "/dev/nvidiactl")):
    os.environ.setdefault("TRITON_INTERPRET", "1")
