"""Tests every format with every compression: rows and texts are exactly what another library wrote."""

from pathlib import Path
from typing import get_args

import pytest

from benchmarks import formats
from pipeline.config import source
from pipeline.source.formats import FORMATS


def test_a_format_that_can_be_configured_is_one_that_can_be_read() -> None:
    names = set(get_args(source.Source.model_fields["format"].annotation)) - {"auto"}
    assert set(source.FORMATS) == set(FORMATS) == names
    suffixes = [suffix for options in source.FORMATS.values() for suffix in options.suffixes]
    assert len(set(suffixes)) == len(suffixes)


@pytest.mark.parametrize(("kind", "suffix", "size"), list(formats.cases()))
def test_rows_and_texts_are_exact(kind: str, suffix: str, size: str, tmp_path: Path) -> None:
    files, rows = formats.SIZES[size]
    folder = tmp_path / "in"
    folder.mkdir()
    found = formats.cell(folder, kind, suffix, files, rows // 20 if files == 1 else rows, 100_000)
    assert found.exact
    assert found.splits < found.files if files > 1 else found.splits > 1
    if kind != "parquet":  # there, footers add bytes, and columns that are not read save some
        assert found.source_bytes <= found.read_bytes < 1.5 * found.source_bytes + 200_000
