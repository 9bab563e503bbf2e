"""The figures that only a load has: how requests came, and how many were served in time."""

from __future__ import annotations

from runner.measure.metric import Metric

LOAD: tuple[Metric, ...] = (
    Metric(
        "itl_ms",
        "ITL",
        "ms",
        "Inter-token latency: the gaps between the outputs of a request as its reader gets them, of every request of a "
        "streaming load without error. An output is one token, or several where they come together. Percentiles are "
        "right to 0.1 %.",
        "load",
        distribution=True,
        better="lower",
    ),
    Metric(
        "lag_ms",
        "Generator lag",
        "ms",
        "How late the runner itself was: from the moment at which a request was to arrive to its sending. Every other "
        "time counts from when it was to arrive, so it is in them.",
        "load",
        distribution=True,
        better="lower",
    ),
    Metric(
        "load/asked_per_s",
        "Arrival rate asked for",
        "requests/s",
        "The declared rate; of a search for saturation that of the trial which the figures are of.",
        "load",
    ),
    Metric(
        "load/arrived_per_s",
        "Arrival rate of the schedule",
        "requests/s",
        "Measured requests but one, divided by the seconds from the first one's arrival to the last one's. A random "
        "schedule comes near the declared rate only with many requests.",
        "load",
    ),
    Metric(
        "load/sent_per_s",
        "Arrival rate achieved",
        "requests/s",
        "The same of the moments at which they were really sent.",
        "load",
    ),
    Metric(
        "load/lag_max_ms",
        "Largest generator lag",
        "ms",
        "The largest lag of a measured request.",
        "load",
        better="lower",
    ),
    Metric(
        "load/warmup",
        "Warm-up requests",
        "requests",
        "Requests before the measured ones. They have records, and no part in throughput and latencies.",
        "load",
    ),
    Metric(
        "load/good_share",
        "Good requests",
        "share",
        "Measured requests that ended without error within every limit of `load.goodput`, divided by all measured "
        "requests.",
        "load",
        better="higher",
    ),
    Metric(
        "load/goodput_per_s",
        "Goodput",
        "requests/s",
        "Good requests divided by the measured seconds.",
        "load",
        better="higher",
    ),
    Metric(
        "load/saturation_per_s",
        "Saturation",
        "requests/s",
        "The highest rate tried at which at least `load.attainment` of the requests were good, where the search ends "
        "with one that did not hold at most `load.resolution` above it.",
        "load",
        better="higher",
    ),
    Metric(
        "load/queue_interval_ms",
        "Mean queue time's interval",
        "ms",
        "Half the width of the 95 % interval of the mean queue time, from the means of 20 stretches of requests one "
        "after the other, because neighbours wait behind the same requests.",
        "load",
        better="lower",
    ),
)
