"""Programs that tests need and PyPI does not have: found, or the test is skipped with the reason printed.

Where PIPELINE_TESTS_REQUIRE names a program (CI does), its absence is a failure: a test must not go quiet.
"""

import os
import shutil

import pytest


def program(name: str, package: str) -> str:
    """The path of a program."""
    found = shutil.which(name)
    if not found:
        reason = f"{name} is not on this machine: install {package}"
        if name in os.environ.get("PIPELINE_TESTS_REQUIRE", "").split():
            pytest.fail(reason)
        pytest.skip(reason)
    return found
