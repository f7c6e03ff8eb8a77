"""Audits a dataset, as `verify`: `ray job submit --working-dir . -- python -m jobs.verify DATASET`."""

import sys

from pipeline.__main__ import main

if __name__ == "__main__":
    sys.exit(main(["verify", *sys.argv[1:]]))
