"""Tests of what a model can read: unknown tokens by script, and texts that it can't tell apart."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.config.load import parse_config
from pipeline.dataset.record import ShardRecord
from pipeline.driver.run import run
from pipeline.estimate.estimate import forecast
from pipeline.estimate.legibility import script_of

Job = Callable[..., dict[str, Any]]
UNREADABLE = ["今天天气很好", "明天会下雨", "昨天很冷", "後天", "नमस्ते दुनिया"]
READABLE = ["the weather is nice today"] * 5


def of(job: Job, corpus: Path, texts: list[str], **sections: Any) -> dict[str, Any]:
    for path in corpus.glob("*.parquet"):
        path.unlink()
    pq.write_table(pa.table({"key": range(len(texts)), "text": texts, "topic": texts}), corpus / "0.parquet")
    return job(**sections)


@pytest.mark.parametrize(
    ("text", "script"),
    [
        ("plain", "Latin"), ("今天 a", "Han"), ("きょうは", "Japanese"), ("привет", "Cyrillic"),
        ("مرحبا", "Arabic"),
        ("안녕", "Hangul"), ("😀 12", "no letters"), ("", "no letters"),
    ],
)  # fmt: skip
def test_scripts(text: str, script: str) -> None:
    assert script_of(text) == script


def test_a_plan_tells_which_texts_the_model_can_not_read(job: Job, corpus: Path) -> None:
    found = forecast(parse_config(of(job, corpus, UNREADABLE)))
    fields = found.fields()["sample"]
    assert fields["unknown_tokens"] == 0.5  # of each word: the mark of its start, and the unknown token
    assert {each["script"] for each in fields["scripts"]} == {"Han", "Devanagari"}
    assert (fields["different_texts"], fields["alike_texts"]) == (5, 4)
    cautions = {each.kind: each.text for each in found.cautions}
    assert "50% of the sampled tokens (Han 50%, Devanagari 50%)" in cautions["unknown_tokens"]
    assert "4 of 5 different sampled texts" in cautions["alike"]


def test_texts_that_the_model_reads_give_no_caution(job: Job, corpus: Path) -> None:
    texts = [*READABLE, "The  weather is nice today", "another one"]
    found = forecast(parse_config(of(job, corpus, texts)))
    assert [each.kind for each in found.cautions] == []
    fields = found.fields()["sample"]
    assert (fields["unknown_tokens"], fields["different_texts"], fields["alike_texts"]) == (0, 2, 0)


@pytest.mark.usefixtures("flow")
@pytest.mark.parametrize(("most", "code"), [(1.0, 0), (0.3, 0), (0.1, 3)])
def test_a_run_may_refuse_what_the_model_can_not_read(job: Job, corpus: Path, most: float, code: int) -> None:
    quality = {"max_unknown_fraction": most}
    ending = run(parse_config(of(job, corpus, UNREADABLE + READABLE, quality=quality)))
    unknown, tokens = (ending.summary[name] for name in ("unknown_tokens", "text_tokens"))
    assert 0.1 < unknown / tokens < 0.3
    assert ending.code == code
    assert ("quality.max_unknown_fraction 0.1" in ending.reason) == bool(code)
    assert f"{100 * unknown / tokens:.0f}" in Path(ending.output, "report.html").read_text()


def test_records_of_older_versions_know_nothing_of_it() -> None:
    defaults = {name: ShardRecord.__dataclass_fields__[name].default for name in ("text_tokens", "null_ids")}
    assert defaults == {"text_tokens": 0, "null_ids": 0}
