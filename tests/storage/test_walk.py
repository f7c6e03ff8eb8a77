"""Tests of what a folder or a glob names on a file system: every file once, nothing silently skipped."""

import glob
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from pipeline import storage
from pipeline.config.location import Options
from pipeline.config.source import Source
from pipeline.errors import DeniedError, ExitCode, MissingError, SourceError, StorageError
from pipeline.source import formats

NOBODY = 65534
AS_ROOT = pytest.mark.skipif(os.geteuid() != 0, reason="only root can be somebody else")


def names(root: Path, pattern: str = "", options: Options | None = None) -> list[str]:
    """Returns what a pattern below a root names, relative to the root."""
    path = f"{root}/{pattern}".rstrip("/")
    return [info.path.removeprefix(f"{root}/") for info in storage.connect(path, options).glob(path)]


def write(*paths: Path) -> None:
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(path.name)


@contextmanager
def nobody() -> Iterator[None]:
    """Runs as a user with few rights."""
    os.seteuid(NOBODY)
    try:
        yield
    finally:
        os.seteuid(0)


@pytest.fixture
def shared() -> Iterator[Path]:
    """Yields a folder that other users may list; pytest's folders are open only to root."""
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        yield Path(folder)


@AS_ROOT
@pytest.mark.parametrize("pattern", ["", "**", "**/*.txt", "*/*.txt", "[ab]/x.txt"])
def test_a_folder_that_cannot_be_listed_is_no_empty_one(shared: Path, pattern: str) -> None:
    write(shared / "a/x.txt", shared / "b/x.txt")
    (shared / "b").chmod(0)
    with nobody(), pytest.raises(DeniedError, match="/b") as raised:
        names(shared, pattern)
    assert raised.value.exit_code == ExitCode.CONFIG


@pytest.mark.parametrize("pattern", ["", "**/*.txt", "*/*.txt"])
def test_a_folder_that_storage_fails_to_list_is_no_empty_one(
    tmp_path: Path, pattern: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An NFS server fails like this now and then; no such server is available here."""
    write(tmp_path / "a/x.txt", tmp_path / "b/x.txt")
    real = os.scandir

    def scandir(path: str) -> object:
        if str(path).rstrip("/").endswith("/b"):
            raise OSError(116, "Stale file handle", path)
        return real(path)

    monkeypatch.setattr(os, "scandir", scandir)
    with pytest.raises(StorageError, match="Stale file handle.*run again"):
        names(tmp_path, pattern)


def test_a_folder_that_goes_while_it_is_listed_is_gone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path / "a/x.txt", tmp_path / "b/x.txt")
    real = os.scandir

    def scandir(path: str) -> object:
        if str(path).rstrip("/").endswith("/b"):
            (tmp_path / "b/x.txt").unlink(missing_ok=True)
            (tmp_path / "b").rmdir()
        return real(path)

    monkeypatch.setattr(os, "scandir", scandir)
    assert names(tmp_path) == ["a/x.txt"]


@pytest.mark.parametrize("pattern", ["", "**", "**/*.txt", "**/**/*.txt"])
def test_links_in_a_circle_multiply_nothing(tmp_path: Path, pattern: str) -> None:
    write(tmp_path / "a/x.txt", tmp_path / "a/deep/y.txt")
    for link, target in (("a/loop", "."), ("a/other", "."), ("a/deep/up", ".."), ("top", "a/deep/up")):
        (tmp_path / link).symlink_to(target)
    assert names(tmp_path, pattern) == ["a/deep/y.txt", "a/x.txt"]


def test_a_link_to_itself_is_told_as_one_that_leads_nowhere(tmp_path: Path) -> None:
    write(tmp_path / "x.txt")
    (tmp_path / "self.txt").symlink_to("self.txt")
    assert names(tmp_path) == ["self.txt", "x.txt"]
    [link, _] = storage.connect(str(tmp_path)).glob(str(tmp_path))
    for kind in ("text", "text-files"):
        source = Source(path=str(tmp_path), format=kind)
        with pytest.raises(SourceError, match="is a symbolic link that leads nowhere"):
            formats.survey(link, "self.txt", source)


def test_a_folder_keeps_the_name_that_it_has_without_links(tmp_path: Path) -> None:
    """Added links change nothing: another name would be another file, to be embedded again."""
    write(tmp_path / "z/x.txt", tmp_path / "elsewhere/y.txt")
    (tmp_path / "in").mkdir()
    (tmp_path / "z").rename(tmp_path / "in/z")
    (tmp_path / "in/a").symlink_to("z")
    for link in ("c", "b"):
        (tmp_path / "in" / link).symlink_to(tmp_path / "elsewhere")
    for pattern in ("", "*/*.txt", "**/*.txt"):
        assert names(tmp_path / "in", pattern) == ["b/y.txt", "z/x.txt"]


def test_one_folder_may_be_named_at_two_depths(tmp_path: Path) -> None:
    """The link's target was listed before, but at another part of the glob, where other files count."""
    write(tmp_path / "a/p/f.txt", tmp_path / "a/p/q/f.txt")
    (tmp_path / "b").symlink_to("a/p")
    assert names(tmp_path, "[ab]/*/f.txt") == ["a/p/f.txt", "b/q/f.txt"]


def test_two_links_to_one_file_are_two_files(tmp_path: Path) -> None:
    """The Hub's cache is like this: files of equal content are one blob."""
    write(tmp_path / "blob")
    (tmp_path / "in").mkdir()
    for name in ("1.txt", "2.txt"):
        (tmp_path / "in" / name).symlink_to("../blob")
    assert names(tmp_path / "in", "*.txt") == ["1.txt", "2.txt"]


@pytest.mark.parametrize("pattern", ["", "**/*.txt", "*/*.txt", "*/b/*.txt"])
def test_a_link_to_a_missing_mount_is_no_empty_folder(tmp_path: Path, pattern: str) -> None:
    write(tmp_path / "a/x.txt")
    (tmp_path / "mounted").symlink_to("/nowhere")
    found = storage.connect(str(tmp_path)).glob(f"{tmp_path}/{pattern}".rstrip("/"))
    assert [info.version for info in found if info.path.endswith("mounted")] == ["a link that leads nowhere"]


@AS_ROOT
@pytest.mark.parametrize("made", ["secret.txt", "folder"])
def test_a_link_of_a_strangers_does_not_have_us_read_what_he_may_not(tmp_path: Path, made: str) -> None:
    write(tmp_path / "out/folder/x.txt", tmp_path / "out/secret.txt", tmp_path / "in/a.txt")
    link = tmp_path / "in" / made
    link.symlink_to(tmp_path / "out" / made)
    for pattern in ("", "**/*.txt"):
        assert len(names(tmp_path / "in", pattern)) == 2  # the link belongs to us
        os.chown(link, NOBODY, NOBODY, follow_symlinks=False)
        with pytest.raises(
            DeniedError, match="a link out of its source.*set the source's options.outside_links"
        ):
            names(tmp_path / "in", pattern)
        assert len(names(tmp_path / "in", pattern, Options(outside_links="follow"))) == 2
        os.chown(tmp_path / "out" / made, NOBODY, NOBODY)
        assert len(names(tmp_path / "in", pattern)) == 2  # the target belongs to the link's owner
        for path in (link, tmp_path / "out" / made):
            os.chown(path, 0, 0, follow_symlinks=False)


def test_links_out_of_a_source_may_be_refused_whoever_made_them(tmp_path: Path) -> None:
    write(tmp_path / "out.txt", tmp_path / "in/deep/a.txt")
    (tmp_path / "in/b.txt").symlink_to("deep/a.txt")
    (tmp_path / "link").symlink_to("in")
    refuse = Options(outside_links="refuse")
    assert names(tmp_path / "link", "", refuse) == ["b.txt", "deep/a.txt"]
    (tmp_path / "in/c.txt").symlink_to("../out.txt")
    with pytest.raises(DeniedError, match="c.txt"):
        names(tmp_path / "link", "", refuse)
    assert names(tmp_path / "link", "*.txt") == ["b.txt", "c.txt"]


PATTERNS = (
    "*", "**", "*.txt", "**/*.txt", "*/*", "a/*", "*/a.txt", "?", "?/[ab]*", "[!a]/*", "**/a/**",
    "**/a/**/*.md", "a**", "{a,b}/*", "**/{a,b}/*.txt", "x[[]1]/*", "*/_u/*", "**/.h", "nothing/*", "a.txt/*",
    "*/*/*/*",
)  # fmt: skip


@pytest.mark.parametrize("pattern", PATTERNS)
def test_without_links_a_pattern_names_what_it_names_to_python(tmp_path: Path, pattern: str) -> None:
    parts = ("a", "b", "{a,b}", "x[1]", "_u", ".h")
    for name in ("a.txt", "b.md", ".i", "ab"):
        write(tmp_path / name)
        for outer in parts:
            write(tmp_path / outer / name)
            for inner in parts:
                write(tmp_path / outer / inner / name)
    found = sorted(set(glob.glob(pattern, root_dir=tmp_path, recursive=True)))  # noqa: PTH207
    wanted = [name for name in found if (tmp_path / name).is_file() and "_u/" not in name]
    if wanted:
        assert names(tmp_path, pattern) == wanted
    else:
        with pytest.raises(MissingError):
            names(tmp_path, pattern)
