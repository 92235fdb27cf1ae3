"""What holds for every test: how properties are searched, and that in CI nothing is skipped."""

from __future__ import annotations

import os
import signal
from collections.abc import Generator

import pytest
from hypothesis import HealthCheck, settings

# Whoever is started in the background by a shell without job control, or by nohup, ignores these signals, and
# so would all that the tests start and send them to. A handler is not inherited.
for number in (signal.SIGINT, signal.SIGHUP):
    if signal.getsignal(number) is signal.SIG_IGN:
        signal.signal(number, lambda *_: None)

IN_CI = os.environ.get("CI") == "true"

# No test may depend on the speed of the machine. At a desk each run searches anew; in CI the same
# commit always searches the same, so that a red run is the commit's doing.
settings.register_profile("desk", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("ci", settings.get_profile("desk"), derandomize=True)
settings.load_profile("ci" if IN_CI else "desk")


LONGEST_FIRST = (
    "lab/test_lab.py",
    "gateway/test_cluster_processes.py",
    "lab/test_attacks.py",
    "deploy/test_ipvs.py",
    "lab/test_costs.py",
    "lab/test_scenarios_cluster.py",
    "gateway/test_processes.py",
    "interop/test_liveness.py",
    "gateway/test_standby_processes.py",
    "interop/test_matrix.py",
    "lab/test_scenarios.py",
    "lab/test_report_real.py",
    "wire/test_properties.py",
    "interop/test_lifetimes.py",
    "cluster/test_fleet.py",
    "crash/test_kills.py",
)
"""Where files run side by side: who begins with the long ones does not wait for one at the end."""


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """In a process of pytest-xdist, the files that take long come first."""
    if hasattr(config, "workerinput"):
        ranks = {name: rank for rank, name in enumerate(LONGEST_FIRST)}
        items.sort(key=lambda item: ranks.get("/".join(item.path.parts[-2:]), len(ranks)))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """A test that skips itself in CI has failed: what it needs is missing there."""
    report = yield
    if IN_CI and report.skipped and not hasattr(report, "wasxfail"):
        report.outcome, report.longrepr = "failed", _failure(report)
    return report


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report() -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    """The same for a module that skips itself."""
    report = yield
    if IN_CI and report.skipped:
        report.outcome, report.longrepr = "failed", _failure(report)
    return report


def _failure(report: pytest.TestReport | pytest.CollectReport) -> str:
    reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
    return f"in CI nothing is skipped: {reason}"
