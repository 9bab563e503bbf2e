"""Experiment tracking: MLflow, or none."""

from __future__ import annotations

from runner.tracking.tracker import Tracker, TrackingError, open_tracker

__all__ = ["Tracker", "TrackingError", "open_tracker"]
