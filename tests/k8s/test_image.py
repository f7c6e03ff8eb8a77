"""Tests the image's recipe and its use in manifests, as text: no container engine is available in tests."""

import re
import shlex
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from tests.k8s.manifests import ROOT, pods, render_over

DIGEST = "sha256:" + "0123456789abcdef" * 4


def instructions() -> list[tuple[str, str]]:
    text = (ROOT / "k8s" / "Dockerfile").read_text()
    text = re.sub(r"^#.*\n", "", text, flags=re.M).replace("\\\n", " ")
    return [(line.split()[0], line.partition(" ")[2].strip()) for line in text.splitlines() if line.strip()]


def stages() -> list[list[tuple[str, str]]]:
    """Returns the instructions by stage; those before the first stage, which all share, come first."""
    found: list[list[tuple[str, str]]] = [[]]
    for instruction in instructions():
        if instruction[0] == "FROM":
            found.append([])
        found[-1].append(instruction)
    return found


def test_the_base_can_be_given_by_its_digest_and_is_one() -> None:
    shared, *rest = stages()
    [(word, base)] = shared
    assert word == "ARG"
    assert base.startswith("BASE=rayproject/ray:")
    assert [stage[0][1].split()[0] for stage in rest] == ["${BASE}", "${BASE}"]


def test_the_code_is_roots_and_the_pod_is_not() -> None:
    *_, last = stages()
    users = [(at, what) for at, (word, what) in enumerate(last) if word == "USER"]
    assert [what for _, what in users] == ["root", "1000:100"]
    changes = [at for at, (word, _) in enumerate(last) if word in ("COPY", "RUN", "ADD")]
    assert users[0][0] < min(changes)
    assert max(changes) < users[1][0]
    assert "chown" not in (ROOT / "k8s" / "Dockerfile").read_text()


def _pips(text: str) -> list[str]:
    return [
        each for each in re.split(r"&&|;|\n", text) if re.search(r"\bpip (install|wheel|download)\b", each)
    ]


def test_all_that_is_installed_is_locked_or_ours() -> None:
    calls = [call for word, what in instructions() if word == "RUN" for call in _pips(what)]
    assert len(calls) == 4
    for call in calls:
        words = set(shlex.split(call))
        assert "--no-deps" in words
        locked = {"--require-hashes", "--only-binary", ":all:"} <= words
        assert locked or words & {"--no-build-isolation", "--no-index"}, call
    locks = (
        next(what for word, what in instructions() if what.startswith("LOCKS=")).partition("=")[2].strip('"')
    )
    assert all((ROOT / lock).exists() for lock in locks.split())
    assert {"requirements.lock", "requirements-torch-cuda.lock"} == set(locks.split())


def test_what_is_copied_is_there_and_let_in() -> None:
    let_in = [line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")]
    copied = [
        each
        for word, what in instructions()
        if word == "COPY" and not what.startswith("--from")
        for each in what.split()[:-1]
    ]
    assert copied
    for pattern in copied:
        names = [path.name for path in ROOT.glob(pattern)]
        assert names, pattern
        assert all(any(Path(name).match(allowed) for allowed in let_in) for name in names), pattern


def test_our_wheel_is_built_without_isolation_and_whole(tmp_path: Path) -> None:
    """It is built as in the image: with the installed build tools, and nothing from the network."""
    command = [
        sys.executable,
        "-m",
        "pip",
        "wheel",
        "--quiet",
        "--no-index",
        "--no-deps",
        "--no-build-isolation",
    ]
    subprocess.run([*command, "--wheel-dir", str(tmp_path), str(ROOT)], check=True)
    [wheel] = tmp_path.glob("*.whl")
    names = zipfile.ZipFile(wheel).namelist()
    for name in ("model.safetensors", "tokenizer.json", "README.md", "LICENSE", "NOTICE"):
        assert f"pipeline/model/albert-mini/{name}" in names
    assert any(name.endswith(".dist-info/licenses/LICENSE") for name in names)
    assert not [name for name in names if not name.startswith(("pipeline/", "albert_embedding_pipeline-"))]


@pytest.mark.parametrize("folder", ["base", "cluster", "overlays/aws", "overlays/raycronjob"])
def test_every_pod_takes_the_digest_that_an_overlay_sets(folder: str, tmp_path: Path) -> None:
    image = {"name": "registry.example.com/albert-embed", "digest": DIGEST}
    (tmp_path / "names.yaml").write_text((ROOT / "k8s" / "base" / "names.yaml").read_text())
    rendered = render_over(folder, tmp_path, images=[image], configurations=["names.yaml"])
    found = [
        container["image"]
        for manifest in rendered
        for _, pod in pods(manifest)
        for container in pod["containers"]
    ]
    assert found
    assert set(found) == {f"registry.example.com/albert-embed@{DIGEST}"}
