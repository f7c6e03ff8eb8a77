"""Embeds a corpus: `ray job submit --working-dir . -- python -m jobs.embed CONFIG`; the same as `run`."""

import sys

from pipeline.__main__ import main

if __name__ == "__main__":
    sys.exit(main(["run", *sys.argv[1:]]))
