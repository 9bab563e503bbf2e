"""A mean's interval where the samples depend on each other, as waits in a queue do."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

BATCHES = 20
STUDENT = 2.093  # 97.5 % quantile of Student's t with BATCHES - 1 degrees of freedom
FEWEST = 10 * BATCHES


def batch_means(samples: npt.NDArray[np.float64]) -> tuple[float, float] | None:
    """Mean and half width of its 95 % interval, by the method of batch means; ``None`` for under ``FEWEST`` samples.

    Neighbours wait behind the same requests, so that the usual interval is far too narrow. The means of BATCHES long
    stretches hardly depend on each other (Law: Simulation Modeling and Analysis, 9.5.3).

    Args:
        samples: in their order in time.  # [samples]
    """
    size = len(samples) // BATCHES
    if len(samples) < FEWEST:
        return None
    means = samples[: size * BATCHES].reshape(BATCHES, size).mean(axis=1)
    return float(samples.mean()), float(STUDENT * means.std(ddof=1) / math.sqrt(BATCHES))
