"""Runs a series' night: `ray job submit --working-dir . -- python -m jobs.nightly CONFIG --run-date DATE`."""

import sys

from pipeline.__main__ import main

if __name__ == "__main__":
    sys.exit(main(["nightly", *sys.argv[1:]]))
