"""MLflow's own system metrics, for a run that no fluent call started."""

from __future__ import annotations

import logging
import math


class SystemMetrics:
    """Samples the machine in a thread of MLflow's, every 10 s unless ``MLFLOW_SYSTEM_METRICS_SAMPLING_INTERVAL`` says
    otherwise. A run that is resumed goes on at the next step.

    Raises:
        Exception: whatever MLflow does.
    """

    def __init__(self, run_id: str, uri: str) -> None:
        from mlflow.system_metrics.system_metrics_monitor import SystemMetricsMonitor

        logging.getLogger("mlflow.system_metrics").setLevel(logging.ERROR)  # a server that is away is our warning
        self._monitor = SystemMetricsMonitor(run_id, resume_logging=True, tracking_uri=uri)
        self._monitor.start()

    def stop(self) -> None:
        """End the thread and write what it has. A run shorter than one interval gets the sample it began with."""
        monitor = self._monitor
        monitor.finish()
        metrics = {name: value for name, value in monitor.aggregate_metrics().items() if math.isfinite(value)}
        if monitor._logging_step == 0 and metrics:
            monitor.publish_metrics(metrics)
            monitor.mlflow_logger.flush()
