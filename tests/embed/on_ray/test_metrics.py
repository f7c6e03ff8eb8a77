"""Tests the tags of metrics."""

import pytest

from pipeline.embed.on_ray.metrics import ascii_tag


@pytest.mark.parametrize("path", ["/data/résultats", "s3://b/嵌入", "/項目/a b", "/\udcff", "/100%", "/a\nb"])
def test_a_tag_is_ascii(path: str) -> None:
    tag = ascii_tag(path)
    assert tag.isascii()
    assert tag.isprintable()


def test_ordinary_paths_stay() -> None:
    for path in ("s3://bucket/articles/2026-01-01", "/data/out 1/x_y~z[1]?*"):
        assert ascii_tag(path) == path


def test_different_paths_have_different_tags() -> None:
    paths = ["/é", "/%C3%A9", "/%25C3%25A9", "/e\u0301", "/e"]
    assert len({ascii_tag(path) for path in paths}) == len(paths)
