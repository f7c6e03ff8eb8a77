"""Finds programs that tests need and PyPI does not have, or skips the test with a reason.

If PIPELINE_TESTS_REQUIRE names a program (CI does), its absence fails the test: none may be lost silently.
"""

import os
import shutil

import pytest


def program(name: str, package: str) -> str:
    """Returns the path of a program."""
    found = shutil.which(name)
    required(name, found is not None, f"install {package}")
    return str(found)


def required(name: str, found: bool, hint: str) -> None:
    """Skips the test if a program was not found, or fails it if the program must not be missing."""
    if found:
        return
    reason = f"{name} is not on this machine: {hint}"
    if name in os.environ.get("PIPELINE_TESTS_REQUIRE", "").split():
        pytest.fail(reason)
    pytest.skip(reason)
