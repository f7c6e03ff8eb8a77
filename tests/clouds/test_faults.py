"""Tests every store behind a proxy that fails a fifth of all requests: results are exact, retries counted."""

import pytest

from tests.clouds.places import Place, read_in_parts, write_in_parts
from tests.s3.under_faults import (
    EACH_KIND,
    LARGE,
    LEAST_PART,
    content,
    copies_are_exact,
    lost_answers_are_told_from_rivals,
    operations_are_exact,
    replacements_take_effect_once,
)


@pytest.mark.parametrize("kind", EACH_KIND)
def test_every_operation_is_exact(kind: str, served: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    read_in_parts(monkeypatch, part=1000, first=100)
    assert served.proxy
    operations_are_exact(served.faulty, served.proxy, served.root, kind, objects=20)


@pytest.mark.parametrize("kind", EACH_KIND)
@pytest.mark.parametrize(("size", "rounds"), [(100, 8), (LARGE, 3)])
def test_each_replacement_takes_effect_once(
    kind: str, size: int, rounds: int, served: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_in_parts(monkeypatch, LEAST_PART)
    assert served.proxy
    replacements_take_effect_once(served.faulty, served.proxy, served.root, kind, size, rounds)


@pytest.mark.parametrize("kind", EACH_KIND)
def test_every_copy_is_exact(kind: str, served: Place) -> None:
    contents = [content(number) for number in range(10)]
    for number, each in enumerate(contents):
        served.store().put(f"{served.root}/from/{number}", each)
    assert served.proxy
    copies_are_exact(served.faulty, served.proxy, served.root, kind, contents)


def test_a_lost_answer_is_told_from_a_rival(served: Place) -> None:
    assert served.proxy
    lost_answers_are_told_from_rivals(served.faulty, served.proxy, served.root)


def test_a_lost_answer_is_a_copy_all_the_same(served: Place) -> None:
    store, proxy = served.faulty, served.proxy
    assert proxy
    store.put(f"{served.root}/source", b"content")
    looks = ["pass"] if served.kind == "s3" else ["pass", "pass"]
    proxy.next = [*looks, "lose", "lose"]
    store.copy_if_absent(f"{served.root}/source", f"{served.root}/target")
    assert proxy.next == []
    assert store.read(f"{served.root}/target") == b"content"
