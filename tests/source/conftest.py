"""Files are looked at by processes of their own, as in a run."""

import pytest


@pytest.fixture(autouse=True)
def surveyed_here() -> None:
    """Not here: in the place of what other tests have."""
