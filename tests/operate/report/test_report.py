"""Checks the report: it shows all of a job, foreign texts can't run as code, and it never fails a run."""

import base64
import io
import json
import re
import subprocess
import sys
from dataclasses import replace
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline import cli
from pipeline.config.load import parse_config
from pipeline.dataset.commit import CommitRequest, commit
from pipeline.dataset.dataset import Dataset
from pipeline.dataset.ending import RunResult
from pipeline.dataset.expected import Expected
from pipeline.dataset.summary import counts, reject_reasons
from pipeline.driver import attempt
from pipeline.errors import ExitCode, StorageError
from pipeline.model.output_spec import OutputSpec
from pipeline.operate import report
from pipeline.operate.report import excerpts, sample
from pipeline.operate.report import texts as texts_module
from pipeline.operate.report.markup import element
from pipeline.operate.report.page import SCRIPT, STYLE
from pipeline.plan.plan import Plan
from tests.conftest import texts, write_config
from tests.reports import HOSTILE, NOON, STARTED, Job, Page, embed, ended, hostile, page_of, records, rewrite


def test_the_page_of_a_job_tells_all_of_it(job: Job, tmp_path: Path, corpus: Path) -> None:
    rewrite(corpus / "1.parquet", text=[None, " ", *texts(18)])
    ending = ended(job())
    assert (ending.code, ending.report) == (ExitCode.DONE, f"{tmp_path}/out/report.html")
    page = page_of(tmp_path / "out")
    assert "Complete" in page.text
    assert "60 rows were read: 58 embedded + 2 rejected" in page.text
    assert "docs 3 60 58 2 0 0" in page.text
    assert {"docs/1.parquet#0", "docs/1.parquet#1"} <= set(page.words)
    dots = page.all("circle")
    assert len(dots) == 58
    assert {dot["data-told"] for dot in dots} == {
        " ".join(text.split()) for text in {*texts(20), *texts(18), *texts(20, 40)}
    }
    names = [attributes["data-colour"] for attributes in page.all("button")]
    assert names == ["c0", "c1", "c2"]  # the topics t0, t1, t2
    assert all(svg["role"] == "img" and svg["aria-label"] for svg in page.all("svg"))


def test_a_run_with_a_failed_file_has_its_report_too(job: Job, tmp_path: Path, corpus: Path) -> None:
    (corpus / "2.parquet").write_bytes(b"nonsense")
    ending = ended(job())
    assert (ending.code, ending.report) == (ExitCode.INCOMPLETE, f"{tmp_path}/out/report.html")
    page = page_of(tmp_path / "out")
    assert "Not complete" in page.text
    assert "1 of the source's files failed: docs/2.parquet: is not a complete Parquet file" in page.text
    assert "docs 3 40 40 0 0 1" in page.text
    assert not (tmp_path / "out/data/_SUCCESS").exists()
    allowed = ended(job(quality={"allow_failed_files": True}))
    assert allowed.code == ExitCode.DONE
    assert "Complete, but for 1 failed file" in page_of(tmp_path / "out").text


def test_no_text_of_others_gets_to_act(job: Job, tmp_path: Path, corpus: Path) -> None:
    ended(hostile(job, corpus))
    page = page_of(tmp_path / "out")
    assert len(page.all("script")) == 1
    assert not page.all("img")
    assert {name for name, _ in page.elements} <= {
        "html", "head", "meta", "link", "title", "style", "body", "main", "header", "section", "footer",
        "div", "p", "h1", "h2", "h3", "b", "strong", "span", "dl", "dt", "dd", "table", "thead", "tbody",
        "tr", "th", "td", "button", "details", "summary", "pre", "script", "svg", "g", "rect", "line", "text",
        "circle",
    }  # fmt: skip
    assert not [key for _, attributes in page.elements for key in attributes if key.startswith("on")]
    shown = HOSTILE.replace("\u202e", "\ufffd")
    assert any(dot["data-told"] == f"{shown} 0" for dot in page.all("circle"))
    assert "docs/<script>alert(4)<script>.parquet" in page.text


def test_the_page_lets_nothing_in_and_nothing_out(job: Job, tmp_path: Path) -> None:
    ended(job())
    data = (tmp_path / "out/report.html").read_text()
    page = Page(data.encode())
    policy = next(each["content"] for each in page.all("meta") if "http-equiv" in each)
    for name, wanted in (("style", STYLE), ("script", SCRIPT)):
        [content] = re.findall(rf"<{name}>(.*?)</{name}>", data, re.S)
        assert content == wanted
        digest = base64.b64encode(sha256(content.encode()).digest()).decode()
        assert f"{name}-src 'sha256-{digest}'" in (policy or "")
    assert "default-src 'none'" in (policy or "")
    assert not re.search(r"url\(|@import|fetch|XMLHttpRequest|innerHTML|eval", STYLE + SCRIPT)
    for name, attributes in page.elements:
        assert not attributes.keys() & {"src", "srcset", "action", "style", "xlink:href"}
        assert attributes.get("href") in (None, "data:,"), name


@pytest.mark.parametrize(
    ("section", "dots", "told"), [({"samples": 0}, 0, False), ({"texts": False}, 57, False), ({}, 57, True)]
)
def test_who_wants_no_texts_in_the_page_has_none(
    job: Job, tmp_path: Path, corpus: Path, section: dict[str, Any], dots: int, told: bool
) -> None:
    lines = [f"secret {row}" for row in range(17)]
    too_long = "secret" * (64 << 20 >> 2)
    rewrite(corpus / "1.parquet", text=[*lines, None, " ", too_long])
    ended(job(report=section))
    data = (tmp_path / "out/report.html").read_text()
    assert ("secret" in data) == told
    assert len(Page(data.encode()).all("circle")) == dots
    assert "docs/1.parquet#19" in data  # the places of rejected rows are always shown


def test_texts_of_a_source_that_is_gone_are_missing(job: Job, tmp_path: Path, corpus: Path) -> None:
    dataset, frozen, failures = embed(job())
    (corpus / "0.parquet").unlink()
    rewrite(corpus / "1.parquet", text=["another text"] * 20)
    parsed = parse_config(job())
    told = attempt.make_report(dataset, frozen, parsed)
    commit(CommitRequest(dataset, frozen, failures, parsed.quality, {"attempt": "attempt"}, told))
    dots = page_of(tmp_path / "out").all("circle")
    assert sorted(dot.get("data-told") or "" for dot in dots) == [""] * 40 + sorted(
        " ".join(text.split()) for text in texts(20, 40)
    )


def test_texts_that_are_carried_cost_no_look_at_the_source(job: Job, tmp_path: Path, corpus: Path) -> None:
    source = {"docs": job()["source"]["docs"] | {"carry": ["text"]}}
    dataset, frozen, failures = embed(job(source=source))
    for path in corpus.iterdir():
        path.unlink()
    parsed = parse_config(job(source=source))
    told = attempt.make_report(dataset, frozen, parsed)
    commit(CommitRequest(dataset, frozen, failures, parsed.quality, {"attempt": "attempt"}, told))
    page = page_of(tmp_path / "out")
    assert all(dot["data-told"] for dot in page.all("circle"))
    assert "Colour: source." in page.text  # and not by their texts


def test_windows_have_their_own_part_of_the_text(job: Job, tmp_path: Path) -> None:
    values = job(model={"long_text": "chunks", "max_tokens": 8}, source={})
    values["source"] = {"docs": job()["source"]["docs"] | {"carry": []}}
    ended(values)
    told = [dot["data-told"] or "" for dot in page_of(tmp_path / "out").all("circle")]
    assert len(told) > 60
    assert any(text.startswith("document number") for text in told)
    assert any(text.startswith(("memory", "and", "time")) for text in told)


def test_a_text_that_would_cost_much_is_left_out(
    job: Job, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(texts_module, "SOURCE_BYTES", 1)
    ended(job())
    dots = page_of(tmp_path / "out").all("circle")
    assert len(dots) == 60
    assert not [dot for dot in dots if "data-told" in dot]


def test_of_a_large_shard_only_the_beginning_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The shard has 20,000 rows of 256 floats, 20 MB; its first 2 MB hold some 2,000 of them."""
    vectors = np.random.default_rng(0).normal(size=(20_000, 256)).astype(np.float32)
    columns = {
        "embedding": pa.FixedSizeListArray.from_arrays(pa.array(vectors.reshape(-1)), 256),
        "source_file": ["docs/f"] * 20_000,
        "source_row": range(20_000),
    }
    path = tmp_path / "data/part-s.parquet"
    path.parent.mkdir()
    pq.write_table(pa.table(columns), path, use_dictionary=False)
    read: list[int] = []

    class Counted:
        """A file that counts how much of it is read."""

        def __init__(self, file: Any) -> None:
            self.file = file

        def __getattr__(self, name: str) -> Any:
            return getattr(self.file, name)

        def read(self, size: int = -1) -> bytes:
            data: bytes = self.file.read(size)
            read.append(len(data))
            return data

    dataset = Dataset(str(tmp_path))
    opened = pa.PythonFile(Counted(io.BytesIO(path.read_bytes())), mode="r")
    monkeypatch.setattr(dataset.storage, "_open", lambda *_: opened)
    monkeypatch.setattr(sample, "SHARD_BYTES", 2 << 20)
    stored = path.stat().st_size
    told = {"split_id": "s", "rows": 20_000, "file_bytes": stored}
    expected = Expected(pa.table(columns).schema, OutputSpec(), normalized=False, max_tokens=None)
    rows = sample._rows(dataset, told, 100, expected)
    places = rows["source_row"].to_pylist()
    assert (len(places), places[0]) == (100, 0)
    assert 1500 < places[-1] < 2100
    np.testing.assert_array_equal(np.stack(rows["embedding"].to_numpy()), vectors[places])
    assert sum(read) < 0.4 * stored


def many(count: int) -> pa.Table:
    """Makes the records of a job of many shards that differ only in their names and times."""
    piece = {"source": "docs", "file": "f", "start": 0, "stop": 10, "rows": 9, "rejects": 1}
    reasons = [{"reason": "null", "rows": 1}]
    few = records(
        {"pieces": [piece], "token_histogram": [0, 1, 8], "reasons": reasons, "file_bytes": 5_000},
        {
            "pieces": [piece],
            "token_histogram": [9],
            "encode_seconds": 7.0,
            "idle_seconds": 1.0,
            "file_bytes": 70,
        },
    )
    table = few.take(np.arange(count) % 2)
    changed = {
        "split_id": pa.array([f"{number:020x}" for number in range(count)]),
        "written_at": pa.array(NOON + np.linspace(1, 90_000, count)),
        "rejects_file": pa.array([f"part-{number}.parquet" for number in range(count)]),
        "tokens": pa.array(np.arange(count) % 3 + 20),
        "computed_tokens": pa.array(np.arange(count) % 3 + 10),
        "padded_tokens": pa.array(np.arange(count) % 3 + 11),
    }
    for name, column in changed.items():
        table = table.set_column(table.column_names.index(name), name, column)
    return table


def subject(tmp_path: Path, table: pa.Table, files: int = 1, **changed: Any) -> report.Subject:
    """Makes a report's subject from records alone, without shards and sources."""
    count = table.num_rows
    pieces = pa.table(
        {
            "split_id": table["split_id"],
            "source": ["docs"] * count,
            "file": [f"f{number % files}" for number in range(count)],
            "unit": ["rows"] * count,
            "start": pa.array([0] * count),
            "stop": pa.array([10] * count),
        }
    )
    dataset = Dataset(str(tmp_path / "out"))
    told = {"attempt": "a", "started": STARTED, "host": "here"}
    dataset.storage.put(dataset.layout.attempt("a"), json.dumps(told).encode())
    values = {"source": {"docs": {"path": "/corpus/*.txt"}}, "output": {"path": str(tmp_path / "out")}}
    summary: dict[str, Any] = {
        **counts(table), "complete": True, "splits": count, "shards": count, "files": files,
        "reject_reasons": reject_reasons(table), "failed_files": {}, "run": {"attempt": "a"},
    }  # fmt: skip
    whole = report.Subject(
        config=parse_config(values),
        dataset=dataset,
        plan=Plan(pieces, pa.schema([]), "digest"),
        code=ExitCode.DONE,
        reason="complete",
        summary=summary,
        records=table,
    )
    return replace(whole, **changed)


def test_a_manifest_of_many_shards_makes_no_larger_page(tmp_path: Path) -> None:
    table = many(200_000)
    data = report.attempted(subject(tmp_path, table))
    assert data is not None
    assert len(data) < 200_000
    page = Page(data)
    assert len(page.all("rect")) < 400
    assert "200,000 shards" in page.text
    assert "null: 100,000 · 100.0 %" in data.decode()
    assert "100,000 rows, 5.0 % of the source" in page.text
    assert "could not be read" in page.text  # since neither shards nor reject files exist


def test_many_failed_files_and_long_messages_are_cut(tmp_path: Path) -> None:
    failed = {f"docs/{'x' * 300}{number}": f"{'<' * 5000}\nmore" for number in range(2000)}
    base = subject(tmp_path, many(4))
    data = report.attempted(replace(base, summary={**base.summary, "failed_files": failed}))
    assert data is not None
    assert len(data) < 500_000
    assert "and 1,950 more" in Page(data).text


def test_texts_are_shortened_until_they_fit() -> None:
    worst = ['"' * 200] * 5000
    fitting = excerpts._fitting(worst)
    assert sum(len(element("b", text)) for text in fitting) < excerpts.TEXT_BYTES + 5000 * len("<b></b>")
    assert all(text and text.endswith("…") for text in fitting)
    assert excerpts._fitting(["short", None]) == ["short", None]


def test_credentials_in_a_message_stay_out(tmp_path: Path) -> None:
    base = subject(tmp_path, many(4))
    reason = "GET https://me:pass@host/x?Signature=abc failed"
    summary = {**base.summary, "complete": False, "failed_files": {"docs/f": reason}}
    changed = replace(base, summary=summary, reason=reason, code=ExitCode.RETRYABLE)
    data = report.attempted(changed)
    assert data is not None
    assert b"GET https://***@host/x?*** failed" in data
    assert b"pass@" not in data


def test_of_a_base_the_page_says_what_came_from_it(tmp_path: Path) -> None:
    base = subject(tmp_path, many(4))
    origins = {"base": "s3://bucket/before", "copied": 10, "reused": 20, "embedded": 10, "gone": 3}
    summary = {**base.summary, **origins, "encode_seconds_saved": 7200.0}
    data = report.attempted(replace(base, summary=summary))
    assert data is not None
    page = Page(data)
    assert "From s3://bucket/before. 3 rows of it are gone; about 2 h of encoding were saved." in page.text
    told = {rect.get("data-told") for rect in page.all("rect")}
    assert {"shards copied: 10 · 25.0 %", "vectors reused: 20 · 50.0 %", "embedded: 10 · 25.0 %"} <= told


def test_a_report_that_cannot_be_made_fails_no_run(
    job: Job, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(*_: object) -> bytes:
        raise ZeroDivisionError("of no use")

    monkeypatch.setattr(report, "page", broken)
    caplog.set_level("INFO", "pipeline")
    ending = ended(job())
    assert (ending.code, ending.report) == (ExitCode.DONE, None)
    assert "report not made reason=of no use" in caplog.text
    assert (tmp_path / "out/data/_SUCCESS").exists()
    assert not (tmp_path / "out/report.html").exists()


def test_a_report_that_cannot_be_written_fails_no_run(
    job: Job, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    dataset, frozen, failures = embed(job())
    original = dataset.storage.replace

    def full(path: str, data: bytes, expected: str | None) -> None:
        if path.endswith("report.html"):
            raise StorageError("no space is left", path)
        original(path, data, expected)

    monkeypatch.setattr(dataset.storage, "replace", full)
    caplog.set_level("INFO", "pipeline")
    quality = parse_config(job()).quality
    ending = commit(CommitRequest(dataset, frozen, failures, quality, {}, lambda *_: b"page"))
    assert (ending.code, ending.report) == (ExitCode.DONE, None)
    assert "report not written" in caplog.text
    assert (tmp_path / "out/data/_SUCCESS").exists()


def test_a_damaged_shard_costs_the_map_and_no_more(
    job: Job, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    dataset, frozen, _ = embed(job())
    path = next((tmp_path / "out/data").iterdir())
    table = dataset.records(dataset.shards())
    path.write_bytes(b"x" * 100)
    caplog.set_level("INFO", "pipeline")
    base = subject(tmp_path, table)
    data = report.attempted(replace(base, config=parse_config(job()), plan=frozen))
    assert data is not None
    assert "The sampled shards could not be read." in Page(data).text
    assert "vectors not shown" in caplog.text


def test_a_rival_that_was_faster_has_its_report_looked_at_again(job: Job, tmp_path: Path) -> None:
    dataset, frozen, failures = embed(job())
    pages = [b"old news", b"news"]

    def told(_ending: RunResult, _records: pa.Table) -> bytes:
        if len(pages) == 2:
            dataset.storage.put(dataset.layout.report, b"a rival's")
        return pages.pop(0)

    ending = commit(CommitRequest(dataset, frozen, failures, parse_config(job()).quality, {}, told))
    assert (ending.code, pages) == (ExitCode.DONE, [])
    assert (tmp_path / "out/report.html").read_bytes() == b"news"


def test_a_page_of_failures_does_not_stay_over_a_rivals_commit(
    job: Job, tmp_path: Path, corpus: Path
) -> None:
    """A rival that allows failed files wrote its report, and then `_SUCCESS`, while we made our report."""
    (corpus / "2.parquet").write_bytes(b"nonsense")
    wide = parse_config(job(quality={"allow_failed_files": True})).quality
    dataset, frozen, failures = embed(job())
    assert commit(CommitRequest(dataset, frozen, failures, wide, {})).code == ExitCode.DONE
    dataset.storage.remove(dataset.layout.success)

    def told(ending: RunResult, _records: pa.Table) -> bytes:
        if ending.code == ExitCode.INCOMPLETE:
            dataset.storage.put_if_absent(dataset.layout.success, b"")
        return ending.reason.encode()

    ending = commit(CommitRequest(dataset, frozen, failures, parse_config(job()).quality, {}, told))
    assert ending.code == ExitCode.DONE
    assert (tmp_path / "out/report.html").read_bytes() == b"complete"


def test_the_command_reports_of_an_unfinished_dataset(
    job: Job, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    written, to = write_config(tmp_path / "job.yaml", job()), tmp_path / "mine.html"
    assert cli.main(["report", str(written), "--to", str(to)]) == ExitCode.CONFIG
    assert "no dataset here" in capsys.readouterr().err
    embed(job())
    for path in sorted((tmp_path / "out/data").iterdir())[:2]:
        path.unlink()
    before = sorted(path for path in (tmp_path / "out").rglob("*"))
    assert cli.main(["report", str(written), "--to", str(to), "--json"]) == ExitCode.DONE
    shown = json.loads(capsys.readouterr().out)
    assert shown == {"output": f"{tmp_path}/out", "state": "4 of 6 splits are done", "report": str(to)}
    page = Page(to.read_bytes())
    assert "Unfinished" in page.text
    assert "docs 3 60 40 0 20 0" in page.text
    assert "is running, or was killed" in page.text
    assert sorted(path for path in (tmp_path / "out").rglob("*")) == before


@pytest.mark.usefixtures("flow")
def test_a_run_names_its_report_and_the_command_makes_it_anew(
    job: Job, tmp_path: Path, corpus: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    written, to = write_config(tmp_path / "job.yaml", job()), tmp_path / "mine.html"
    assert cli.main(["run", str(written)]) == ExitCode.DONE
    assert f"report  {tmp_path}/out/report.html\n" in capsys.readouterr().out
    page = page_of(tmp_path / "out")
    assert "60 rows were read: 60 embedded + 0 rejected" in page.text
    assert "exit 0: complete" in page.text
    assert re.search(r"albert-embed 0\.\d+\.\d+ python 3\.\d+\.\d+ ray 2\.\d+\.\d+ torch 2\.", page.text)
    assert cli.main(["report", str(written), "--to", str(to)]) == ExitCode.DONE
    anew = Page(to.read_bytes())
    assert anew.elements == page.elements
    assert cli.main(["verify", str(tmp_path / "out")]) == ExitCode.DONE


def test_reports_start_without_ray_and_torch() -> None:
    program = "import sys, pipeline.operate.report; sys.exit(bool({'ray', 'torch'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0
