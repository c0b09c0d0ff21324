"""One thread for every test and every process that a test starts, or as many as VANDKIT_TEST_THREADS says."""

import os

THREADS = int(os.environ.get("VANDKIT_TEST_THREADS", "1"))
os.environ["OMP_NUM_THREADS"] = str(THREADS)
for name in ("MAKEFLAGS", "MFLAGS", "MAKELEVEL", "MAKEOVERRIDES"):
    os.environ.pop(name, None)  # a make that a test starts is its own, not one below `make test`

import pytest
import torch

torch.set_num_threads(THREADS)


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item, call):
    """What a test printed reaches the process that reports, also a name that is no Unicode."""
    outcome = yield
    report = outcome.get_result()
    report.sections = [(title, text.encode(errors="backslashreplace").decode()) for title, text in report.sections]
