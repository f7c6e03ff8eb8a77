"""Makes a corpus that every machine has: the docstrings of Python's standard library, as sharded Parquet.

Sources are parsed, never imported. A second run leaves existing files alone: rewritten files would be new
versions.
"""

import ast
import sys
import sysconfig
import warnings
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

NOT_LIBRARY = {
    "site-packages",
    "dist-packages",
    "test",
    "tests",
    "idle_test",
    "idlelib",
    "lib2to3",
    "turtledemo",
}
DEFINITIONS = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)


def docstrings(library: Path) -> Iterator[dict[str, str]]:
    """Finds everything documented below a folder, in order of paths.

    Yields:
        `id` (the definition's `path:line`: a name may be defined twice), `module`, `name`, `docstring`.
    """
    for path in sorted(library.rglob("*.py")):
        relative = path.relative_to(library)
        if NOT_LIBRARY.isdisjoint(relative.parts):
            module = ".".join(relative.with_suffix("").parts).removesuffix(".__init__")
            for line, name, text in _documented(_parsed(path), module):
                yield {"id": f"{relative}:{line}", "module": module, "name": name, "docstring": text}


def _parsed(path: Path) -> ast.AST:
    """Parses a file; returns an empty tree for templates and old dialects that packages ship as `.py`."""
    with warnings.catch_warnings(action="ignore"):
        try:
            return ast.parse(path.read_bytes())
        except (SyntaxError, ValueError):
            return ast.Module([], [])


def _documented(node: ast.AST, name: str) -> Iterator[tuple[int, str, str]]:
    if isinstance(node, DEFINITIONS) and (text := ast.get_docstring(node)):
        yield getattr(node, "lineno", 0), name, text  # a module has no line
    for child in ast.iter_child_nodes(node):
        yield from _documented(child, f"{name}.{child.name}" if isinstance(child, DEFINITIONS[1:]) else name)


def write(folder: Path, files: int = 16) -> int:
    """Writes the corpus as Parquet files of about equal size, unless it exists; returns its row count."""
    if folder.exists():
        return sum(pq.read_metadata(path).num_rows for path in folder.glob("*.parquet"))
    table = pa.Table.from_pylist(list(docstrings(Path(sysconfig.get_path("stdlib")))))
    unfinished = folder.with_name(f"{folder.name}.unfinished")
    unfinished.mkdir(parents=True, exist_ok=True)
    for number in range(files):
        start, stop = (table.num_rows * n // files for n in (number, number + 1))
        pq.write_table(table.slice(start, stop - start), unfinished / f"docstrings-{number:02d}.parquet")
    unfinished.rename(folder)
    return int(table.num_rows)


if __name__ == "__main__":
    print(write(Path(sys.argv[1])), "docstrings")
