"""Thread settings are defaults, never overrides."""

from __future__ import annotations

import os

from runner.threads import available_cores, set_thread_defaults


def test_the_users_choice_stays() -> None:
    chosen = {"OMP_WAIT_POLICY": "ACTIVE", "OMP_NUM_THREADS": "7"}
    set_thread_defaults(chosen)
    assert chosen == {"OMP_WAIT_POLICY": "ACTIVE", "OMP_NUM_THREADS": "7"}


def test_defaults_fit_the_machine() -> None:
    empty: dict[str, str] = {}
    set_thread_defaults(empty)
    assert empty["OMP_WAIT_POLICY"] == "PASSIVE"
    assert 1 <= int(empty["OMP_NUM_THREADS"]) == available_cores() <= (os.cpu_count() or 1)
