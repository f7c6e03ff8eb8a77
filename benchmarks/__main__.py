"""Runs the benchmarks of one machine and makes their page: `python -m benchmarks [SECTION ...] [--rounds 5]`.

Each section is a program of its own, whose table goes into `.bench/`. The page, `benchmarks/results.md`, is
made from all tables there. Sections that are not named keep their tables.
"""

import argparse
import datetime
import importlib
import os
import platform
import secrets
import shutil
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import psutil

SECTIONS = {
    "whole_job": ("The whole job compared with other tools", [".corpora", "--to", ".bench/whole_job.json"]),
    "efficiency": ("How much of the bare encoder's speed a whole job keeps", []),
    "simulated": ("How many fast devices these processors feed", []),
    "feeding": ("The cost of reading, tokenizing and writing", []),
    "million": ("A million splits", []),
    "nights": ("A resume and a night compared with a full run", []),
    "changes": ("The changes between two nights", []),
    "sentiment": ("A head over vectors compared with TF-IDF, and its cost", []),
    "replicas": ("How many replicas one driver keeps up with", []),
    "driver_memory": ("The driver with few and many splits", ["1000", "10000", "100000"]),
}
PACKAGES = ("ray", "torch", "transformers", "sentence-transformers", "pyarrow", "pyspark")
REPEATED = ("whole_job", "efficiency", "simulated", "feeding", "nights")
"""Sections whose runs alternate, round after round. Figures of the others hardly differ from run to run."""
KEPT, PAGE, GPU = Path(".bench"), Path("benchmarks/results.md"), Path("benchmarks/gpu.md")
PICTURE = KEPT / "whole_job.svg"
OUTSIDE = (
    "NeMo Curator 1.4.0 is not included. It installs, but its embedding stages move their model\n"
    "to CUDA by name (`nemo_curator/stages/text/embedders/base.py`), so without a GPU nothing can\n"
    "be compared."
)


def run(name: str, peers: str, rounds: int) -> None:
    """Runs a section, and keeps its output.

    Raises:
        CalledProcessError: the section failed.
    """
    command = [sys.executable, "-m", f"benchmarks.{name}", *SECTIONS[name][1]]
    command += ["--peers", peers] if name == "whole_job" else []
    command += ["--rounds", str(rounds)] if name in REPEATED else []
    environment = os.environ | {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}
    print(f"{datetime.datetime.now():%H:%M} {name}", flush=True)
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, env=environment)
    lines = [line for line in done.stdout.strip().splitlines() if line.startswith("|") or not line]
    if name in REPEATED:
        lines += ["", f"{rounds} rounds."]
    (KEPT / f"{name}.md").write_text("\n".join(lines) + "\n")


def page() -> str:
    """Makes the page of all sections that were run."""
    memory = psutil.virtual_memory().total / 2**30
    packages = ", ".join(f"{name} {version(name)}" for name in PACKAGES)
    parts = [
        "# Results\n",
        "Made by `make bench`, on one machine; do not edit. Ratios hold within a run of one section.\n",
        f"{_processor()}, {os.cpu_count()} processors, {memory:.0f} GiB; Python {platform.python_version()}, "
        f"{packages}.\n",
    ]
    for name, (title, _) in SECTIONS.items():
        table = KEPT / f"{name}.md"
        if not table.exists():
            continue
        day = datetime.date.fromtimestamp(table.stat().st_mtime)
        told = (importlib.import_module(f"benchmarks.{name}").__doc__ or "").strip()
        parts.append(f"## {title}\n\n{_prose(told)}\n\n{table.read_text()}\n{day}.\n")
        if name == "whole_job":
            parts.append(f"![tokens per second](whole_job.svg)\n\n{OUTSIDE}\n")
    parts.append(f"## On a GPU\n\n{GPU.read_text()}")
    return "\n".join(parts)


def _prose(docstring: str) -> str:
    """Formats a module's docstring as Markdown: its command becomes code; it has no headings."""
    return "\n".join(
        line if not line.startswith("    ") else f"\n{line}\n" for line in docstring.splitlines()
    )


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.processor()


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("sections", nargs="*", default=list(SECTIONS), choices=SECTIONS)
    parser.add_argument(
        "--peers", default=".venv-peers/bin/python", help="the Python of peers' own environment"
    )
    parser.add_argument("--rounds", type=int, default=5)
    told = parser.parse_args()
    KEPT.mkdir(exist_ok=True)
    for name in told.sections:
        run(name, told.peers, told.rounds)
    if PICTURE.exists():
        shutil.copy(PICTURE, PAGE.parent)
    PAGE.write_text(page())
    print(PAGE)


if __name__ == "__main__":
    main()
