"""Every format, compressed in every way: rows and texts are exactly what another library wrote."""

from pathlib import Path

import pytest

from benchmarks import formats


@pytest.mark.parametrize(("kind", "suffix", "size"), list(formats.cases()))
def test_rows_and_texts_are_exact(kind: str, suffix: str, size: str, tmp_path: Path) -> None:
    files, rows = formats.SIZES[size]
    folder = tmp_path / "in"
    folder.mkdir()
    found = formats.cell(folder, kind, suffix, files, rows // 20 if files == 1 else rows, 100_000)
    assert found.exact
    assert found.splits < found.files if files > 1 else found.splits > 1
    if kind != "parquet":  # footers, and columns that are not asked for, make it more or less there
        assert found.source_bytes <= found.read_bytes < 1.5 * found.source_bytes + 200_000
