"""Finds programs that tests need and PyPI does not have, or skips the test with a reason.

If PIPELINE_TESTS_REQUIRE names a program (CI does), its absence fails the test: none may be lost silently.
"""

import os
import shutil

import pytest


def program(name: str, package: str) -> str:
    """Returns the path of a program."""
    found = shutil.which(name)
    if not found:
        reason = f"{name} is not on this machine: install {package}"
        if name in os.environ.get("PIPELINE_TESTS_REQUIRE", "").split():
            pytest.fail(reason)
        pytest.skip(reason)
    return found
