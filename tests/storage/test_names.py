"""Tests which names do not count, on a file system and in object storage, and that they are counted."""

from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
from fsspec.implementations.memory import MemoryFileSystem

from pipeline import storage
from pipeline.errors import MissingError
from pipeline.storage.base import Storage
from pipeline.storage.names import Hidden

NAMES = (
    "a.txt", "tenant=1/b.txt", "_tenant=0/c.txt", "_posts/d.txt", "_index.txt", ".git/e.txt", ".f.txt",
    "x=1_$folder$", "g.txt._COPYING_",
)  # fmt: skip
ALWAYS = ["a.txt", "tenant=1/b.txt", "_tenant=0/c.txt"]
REASONS = {"x=1_$folder$": "folder_marker", "g.txt._COPYING_": "unfinished"}


@pytest.fixture(params=["file", "memory"])
def root(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """A folder with these names."""
    if request.param == "file":
        for name in NAMES:
            (tmp_path / name).parent.mkdir(exist_ok=True)
            (tmp_path / name).write_text("x")
        yield str(tmp_path)
        return
    memory = MemoryFileSystem()
    for name in NAMES:
        memory.pipe_file(f"/names/{name}", b"x")
    yield "memory://names"
    memory.rm("/names", recursive=True)


def found(root: str, pattern: str, hidden: Hidden = "skip") -> tuple[set[str], dict[str, str]]:
    listing = storage.connect(root).search(f"{root}{pattern}", hidden)
    place = storage.connect(root).strip(root)
    files = {storage.connect(root).strip(info.path).removeprefix(f"{place}/") for info in listing.files}
    return files, {path.removeprefix(f"{place}/"): why for path, why in listing.passed_over.items()}


@pytest.mark.parametrize(
    ("hidden", "more", "passed"),
    [
        ("skip", [], ["_posts", "_index.txt", ".git", ".f.txt"]),
        ("dots", ["_posts/d.txt", "_index.txt"], [".git", ".f.txt"]),
        ("read", ["_posts/d.txt", "_index.txt", ".git/e.txt", ".f.txt"], []),
    ],
)
@pytest.mark.parametrize("pattern", ["", "/**"])
def test_what_does_not_count_is_told(
    root: str, pattern: str, hidden: Hidden, more: list[str], passed: list[str]
) -> None:
    files, told = found(root, pattern, hidden)
    assert files == {*ALWAYS, *more}
    assert told == {**dict.fromkeys(passed, "hidden"), **REASONS}


def test_only_what_the_pattern_names_is_told(root: str) -> None:
    assert found(root, "/*.txt") == ({"a.txt"}, {"_index.txt": "hidden", ".f.txt": "hidden"})
    assert found(root, "/*=*/*.txt") == ({"tenant=1/b.txt", "_tenant=0/c.txt"}, {})


def test_nothing_but_hidden_names(root: str) -> None:
    with pytest.raises(
        MissingError, match=r"no file here \(got 1 name.*_index.txt among them\).*hidden: dots"
    ):
        found(root, "/_i*.txt")


def test_an_empty_object_with_the_name_of_a_folder_is_a_marker() -> None:
    keys = {"b/day=1": 0, "b/day=1-x.txt": 1, "b/day=1/a.txt": 1, "b/empty.txt": 0, "b/day=2/": 0}
    listing = {key: {"name": key, "size": size, "type": "file"} for key, size in keys.items()}
    driver = SimpleNamespace(find=lambda *_, **__: listing)
    found, passed = Storage(driver)._search("s3://b", "skip")
    assert set(found) == {"b/day=1-x.txt", "b/day=1/a.txt", "b/empty.txt"}
    assert passed == {"b/day=1": "folder_marker", "b/day=2/": "folder_marker"}


def test_brackets_can_be_written(tmp_path: Path) -> None:
    (tmp_path / "run[1]").mkdir()
    (tmp_path / "run[1]/a.txt").touch()
    assert found(str(tmp_path), "/run[[]1]/*.txt")[0] == {"run[1]/a.txt"}
    with pytest.raises(MissingError, match=r"write `\[\[\]` for a bracket"):
        found(str(tmp_path), "/run[1]/*.txt")


def test_doubled_slashes_mean_one(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in/a.txt").touch()
    store = storage.connect(str(tmp_path))
    pattern = f"{tmp_path}//in//*.txt"
    [info] = store.glob(pattern)
    assert info.path == f"{tmp_path}/in/a.txt"
    assert store.relative(pattern, info.path) == "a.txt"
