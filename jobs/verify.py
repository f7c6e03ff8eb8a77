"""Audit a dataset: `ray job submit --working-dir . -- python -m jobs.verify DATASET`; as `verify`."""

import sys

from pipeline.cli import main

if __name__ == "__main__":
    sys.exit(main(["verify", *sys.argv[1:]]))
