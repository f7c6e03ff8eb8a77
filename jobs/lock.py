"""Resolves pyproject.toml into the lock files, with the hashes of all files of each release: `make lock`.

Versions do not change: running the command twice writes the same bytes. Arguments go to uv, so `--upgrade`
takes the newest versions that pyproject.toml allows, and `--upgrade-package NAME` the newest of one package.
"""

import re
import subprocess
import sys
import tempfile
from pathlib import Path

Entries = dict[str, str]
"""The entries of a lock file by name: the requirement, and the lines of its hashes."""
HEADER = """\
# {what}
# With the hashes of all files of each release. Made by `make lock`; do not edit.
"""
WHAT = {
    "requirements.lock": "What a run needs, but for torch.",
    "requirements-torch-cpu.lock": "PyTorch's own build for Linux without CUDA, for where pip finds it.",
    "requirements-torch-cuda.lock": "PyPI's torch: for Linux with CUDA, and what that needs.",
    "requirements-clouds.lock": "What gs://, abfs:// and tables need beside requirements.lock.",
    "requirements-build.lock": "What builds our own package.",
    "requirements-dev.lock": "What tests and linters need beside requirements.lock and torch.",
    "requirements-release.lock": "What `make sbom` and `make audit` need.",
}
TORCH = ("torch", "cuda-", "nvidia-", "triton")
TORCH_CPU = {
    "2.13.0": """\
6746dbcbeb526eb61330b76b41ff1b4eb848951103a892eeb080dfa2b264667b  cp311 x86_64
4ca4a9394b0c771238a4f73590fdbbc4debad85ed0fa63d026ae1b085da7d6e2  cp312 x86_64
3fbf9c9d1f3c10c2d59d04aca426dee9ccc6ceb32d255c61e93acc3b4f75fae6  cp313 x86_64
84453b69508ec79902f899c5ed9495acb9e2bbe9fda5f1d5d6f19e3c3842e1a7  cp311 aarch64
6f307c2c32d764ffc6ff6893b801fad6d4752f3e67966cb8abf1843427c02604  cp312 aarch64
0b8f7d0423027ae8b90c7977c627f3379f325363a08224dffad9b4b2d684a83d  cp313 aarch64
"""
}
"""Builds without CUDA, from PyTorch's index. They have their own lock: if both fit, pip prefers PyPI's."""


def resolve(present: Entries, *arguments: str) -> Entries:
    """Returns name and entry of everything that a resolution needs; versions that are `present` are kept."""
    with tempfile.TemporaryDirectory() as folder:
        made = Path(folder) / "made.lock"
        # Only versions are passed on: uv would also keep the hashes, even a wrong one.
        made.write_text("".join(entry.partition(" ")[0] + "\n" for entry in present.values()))
        command = [
            "uv",
            "pip",
            "compile",
            "--quiet",
            "--no-header",
            "--no-annotate",
            "--output-file",
            str(made),
        ]
        command += ["--universal", "--python-version", "3.11", "--generate-hashes"]
        subprocess.run([sys.executable, "-m", *command, *arguments], check=True)
        return entries(made.read_text())


def entries(lock: str) -> Entries:
    """Returns the entries of a lock file.

    Raises:
        SystemExit: two entries belong to one package.
    """
    each = re.split(r"^(?=[a-z0-9])", lock, flags=re.M)[1:]
    by_name = {entry.partition("==")[0]: entry for entry in each}
    if len(by_name) < len(each):
        raise SystemExit("a package has two versions, by platform: bound its version in pyproject.toml")
    return by_name


def cpu_builds(torch: str) -> Entries:
    """Returns torch's entry with CPU builds in place of PyPI's.

    Raises:
        SystemExit: the CPU builds of this version are not known.
    """
    version = torch.partition("==")[2].split()[0]
    if version not in TORCH_CPU:
        raise SystemExit(f"torch {version}: add its CPU builds to TORCH_CPU, from PyTorch's own index")
    digests = sorted(line.split()[0] for line in TORCH_CPU[version].splitlines())
    lines = [f"torch=={version}+cpu", *(f"    --hash=sha256:{digest}" for digest in digests)]
    return {"torch": " \\\n".join(lines) + "\n"}


def resolved(present: Entries, *arguments: str) -> dict[str, Entries]:
    """Returns the entries of each lock file."""
    project = ("pyproject.toml", *arguments)
    needed = resolve(present, *project)
    # The versions chosen for a run hold for all files.
    present = present | needed
    extras = ("gs", "abfs", "delta", "iceberg")
    clouds = resolve(present, *project, *(word for extra in extras for word in ("--extra", extra)))
    torch = {name: entry for name, entry in needed.items() if name.startswith(TORCH)}
    return {
        "requirements.lock": _beside(torch, needed),
        "requirements-torch-cpu.lock": cpu_builds(torch["torch"]),
        "requirements-torch-cuda.lock": torch,
        "requirements-clouds.lock": _beside(needed, clouds),
        "requirements-build.lock": resolve(present, "--group", "build", *arguments),
        "requirements-dev.lock": _beside(needed, resolve(present, *project, "--group", "dev")),
        "requirements-release.lock": resolve(present, "--group", "release", *arguments),
    }


def _beside(these: Entries, more: Entries) -> Entries:
    return {name: entry for name, entry in more.items() if name not in these}


def main(*arguments: str) -> None:
    """Writes all lock files, or none."""
    present: Entries = {}
    for name in WHAT:
        present |= entries(Path(name).read_text()) if Path(name).exists() else {}
    for name, found in resolved(present, *arguments).items():
        Path(name).write_text(HEADER.format(what=WHAT[name]) + "".join(found.values()))


if __name__ == "__main__":
    main(*sys.argv[1:])
