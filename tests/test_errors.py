"""Provokes every error that a user meets: each is one message with what, where, what was got, what to do."""

import ast
import datetime
import json
import shutil
import sys
from collections.abc import Callable, Mapping
from http import HTTPStatus
from pathlib import Path
from string import ascii_letters

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline import cli, errors, storage, telemetry
from pipeline.dataset.dataset import Dataset
from pipeline.errors import ExitCode, PipelineError
from pipeline.model.tokenizer.vocabulary import PROBES
from pipeline.nightly import DatasetFacts, Series
from pipeline.storage import retry
from tests import records, written_datasets
from tests.catalogue import entries, provoke
from tests.conftest import PACKAGED, make_checkpoint, write_config
from tests.embed.on_ray.test_cluster import NO_RAY
from tests.hub import hub
from tests.models_with_heads import with_classes
from tests.s3.test_errors import CASES as S3_CASES
from tests.test_supervise import CASES as ENDED
from tests.written_tables import column as delta_column
from tests.written_tables import delta_log

ENTRIES = entries()
Prepare = Callable[[Path, pytest.MonkeyPatch], None]
Case = tuple[str, Prepare]
LAKE = "--set source.docs.path=lake --set source.docs.format=delta"
SERIES = "--set output.path=out/{run_date}"
LAKE_TABLE = "--set publish.lake.format=iceberg --set publish.lake.table=search.docs"


def nothing(_: Path, __: pytest.MonkeyPatch) -> None:
    """Leaves the config and the corpus as they are."""


def file(name: str, text: str) -> Prepare:
    def prepare(folder: Path, _: pytest.MonkeyPatch) -> None:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)

    return prepare


def column(name: str) -> Prepare:
    """Adds a column to the corpus."""

    def prepare(folder: Path, _: pytest.MonkeyPatch) -> None:
        for path in (folder / "corpus").glob("*.parquet"):
            table = pq.read_table(path)
            pq.write_table(table.append_column(name, pa.array(range(table.num_rows))), path)

    return prepare


def lake(folder: Path, _: pytest.MonkeyPatch) -> None:
    shutil.copytree(folder / "corpus", folder / "lake")
    (folder / "lake/_delta_log").mkdir()


def without_its_library(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lake(folder, monkeypatch)
    monkeypatch.setitem(sys.modules, "deltalake", None)


def delta_table(*features: str) -> Prepare:
    def prepare(folder: Path, _: pytest.MonkeyPatch) -> None:
        pytest.importorskip("deltalake")
        files = {"0.parquet": pa.table({"key": [1], "text": ["a"]})}
        delta_log(
            folder / "lake", [delta_column("key", "long"), delta_column("text", "string")], files, features
        )

    return prepare


def without_rows(folder: Path, _: pytest.MonkeyPatch) -> None:
    (folder / "empty").mkdir()
    schema = pq.read_schema(folder / "corpus/0.parquet")
    pq.write_table(schema.empty_table(), folder / "empty/0.parquet")


def values(folder: Path) -> dict[str, dict[str, object]]:
    return dict(json.loads((folder / "job.yaml").read_text()))


def claimed(folder: Path, _: pytest.MonkeyPatch) -> None:
    records.planned(values(folder))


def foreign(folder: Path, patch: pytest.MonkeyPatch) -> None:
    claimed(folder, patch)
    file("out/data/notes.txt", "mine")(folder, patch)


def damaged_plan(folder: Path, patch: pytest.MonkeyPatch) -> None:
    claimed(folder, patch)
    file("out/plan.parquet", "PAR1, and no more")(folder, patch)


def completed(wanted: Mapping[str, object]) -> Dataset:
    """Makes a complete dataset without rows."""
    dataset, made = records.planned(wanted)
    records.complete(dataset, *(records.record(split) for split in made.split_ids.to_pylist()))
    Path(dataset.layout.summary).write_text(json.dumps({"failed_files": {}} | dict.fromkeys(SUMMARY, 0)))
    return dataset


SUMMARY = ("files", "splits", "shards", "rows", "rejects", "tokens", "truncated")


def complete_and_moved_on(folder: Path, _: pytest.MonkeyPatch) -> None:
    completed(values(folder))
    (folder / "corpus/2.parquet").unlink()


def embedded(folder: Path, **last: str) -> None:
    """Makes a dataset with all its shards whose driver could not commit; `last` changes the last record."""
    dataset, made = records.planned(values(folder))
    *first, final = made.split_ids.to_pylist()
    records.write(dataset, *map(records.record, first), records.record(final, **last))


def of_another_model(folder: Path, _: pytest.MonkeyPatch) -> None:
    embedded(folder, vector_digest="of another model")


def being_removed(folder: Path, _: pytest.MonkeyPatch) -> None:
    dataset, _made = records.planned(values(folder))
    assert dataset.begin_removal()


def just_before(
    patch: pytest.MonkeyPatch, when: Callable[[str, str], bool], then: Callable[[], None]
) -> None:
    """Calls `then` in the middle of a command, before its first storage request that `when` selects."""
    done: list[str] = []

    def observe(operation: str, path: str) -> None:
        if not done and when(operation, path):
            done.append(path)
            then()

    patch.setattr(telemetry, "observers", [*telemetry.observers, observe])


def gone_before_its_end(folder: Path, patch: pytest.MonkeyPatch) -> None:
    """Makes a dataset that is complete when the run begins, and is pruned before the run reads the plan."""
    dataset = completed(values(folder))

    def prune() -> None:
        for path in (dataset.layout.success, dataset.layout.plan):
            Path(path).unlink()

    just_before(patch, lambda operation, path: operation == "read" and path.endswith("plan.parquet"), prune)


def removed(folder: Path, patch: pytest.MonkeyPatch, anew: bool = False) -> None:
    """Removes everything when the run has listed the shards and begins to commit; claims it again if told."""
    embedded(folder)
    listed: list[str] = []

    def commits(operation: str, path: str) -> bool:
        listed.extend([path] if operation == "list" and path.endswith("/data") else [])
        return bool(listed) and operation == "read" and path.endswith("dataset.json")

    def remove() -> None:
        shutil.rmtree(folder / "out")
        if anew:
            records.planned(values(folder))

    just_before(patch, commits, remove)


def made_anew(folder: Path, patch: pytest.MonkeyPatch) -> None:
    removed(folder, patch, anew=True)


def pruned_beside_a_rollback(folder: Path, patch: pytest.MonkeyPatch) -> None:
    """Makes three nights, of which the wanted one is removed before readers can follow it."""
    for day in ("2026-11-22", "2026-11-23", "2026-11-24"):
        night = completed(values(folder) | {"output": {"path": f"out/{day}"}})
        Series("out").advance(day, datetime.date.fromisoformat(day), DatasetFacts.of(night))
    success = folder / "out/2026-11-22/data/_SUCCESS"
    just_before(
        patch, lambda operation, path: operation == "put" and path.endswith("LATEST.json"), success.unlink
    )


ROWS = [{"key": 7, "text": "one", "topic": "t"}, {"key": 8, "text": "two", "topic": "t"}]


def other_ids(folder: Path, _: pytest.MonkeyPatch) -> None:
    written_datasets.made(str(folder / "old"), {"0": ROWS}, written_datasets.Kind(id_column=None))
    written_datasets.made(str(folder / "new"), {"0": ROWS})


def repeated_ids(folder: Path, _: pytest.MonkeyPatch) -> None:
    written_datasets.made(str(folder / "old"), {"0": ROWS})
    written_datasets.made(str(folder / "new"), {"0": [*ROWS, ROWS[0]]})


def made_again(folder: Path, _: pytest.MonkeyPatch) -> None:
    for name in ("old", "new"):
        written_datasets.made(str(folder / name), {name: ROWS})
    assert cli.main(["changes", "new", "--since", "old"]) == ExitCode.DONE
    shutil.rmtree(folder / "old")
    written_datasets.made(str(folder / "old"), {"other": ROWS})


def catalog_at(uri: str | None) -> Prepare:
    """Describes the default catalog to pyiceberg, or none: it reads its configuration once a process."""

    def prepare(folder: Path, patch: pytest.MonkeyPatch) -> None:
        catalogs = pytest.importorskip("pyiceberg.catalog")
        from pyiceberg.utils.config import Config

        patch.setenv("PYICEBERG_HOME", str(folder))
        patch.setenv("HOME", str(folder))
        if uri:
            patch.setenv("PYICEBERG_CATALOG__DEFAULT__URI", uri)
        patch.setattr(catalogs, "_ENV_CONFIG", Config())

    return prepare


def table_of_texts(folder: Path, _: pytest.MonkeyPatch) -> None:
    """Makes a night whose ids are numbers, beside a Delta table whose ids are texts."""
    pytest.importorskip("deltalake")
    night = completed(values(folder) | {"output": {"path": "out/2026-11-24"}})
    Series("out").advance("2026-11-24", datetime.date(2026, 11, 24), DatasetFacts.of(night))
    delta_log(folder / "out", [delta_column("key", "string")], {})


def without_weights(folder: Path, _: pytest.MonkeyPatch) -> None:
    shutil.copytree(PACKAGED, folder / "model", ignore=shutil.ignore_patterns("*.safetensors"))


def no_model_in_storage(folder: Path, patch: pytest.MonkeyPatch) -> None:
    patch.setenv("EMBED_MODEL_CACHE", str(folder / "cache"))
    storage.connect("memory://models").put("memory://models/text/notes.txt", b"")


def with_vocab(*tokens: str, **settings: str) -> Prepare:
    """Makes a checkpoint whose tokenizer is a `vocab.txt`."""

    def prepare(folder: Path, _: pytest.MonkeyPatch) -> None:
        lines = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *tokens]
        model = make_checkpoint(folder / "model", vocab_size=len(lines))
        (model / "tokenizer.json").unlink()
        (model / "vocab.txt").write_text("\n".join(lines))
        (model / "tokenizer_config.json").write_text(json.dumps(settings))

    return prepare


def headless(folder: Path, _: pytest.MonkeyPatch) -> None:
    make_checkpoint(folder / "model")


def paired(folder: Path, _: pytest.MonkeyPatch) -> None:
    with_classes(folder / "model", ["a", "b"])


def on_a_cluster(_: Path, patch: pytest.MonkeyPatch) -> None:
    patch.setenv("RAY_ADDRESS", "10.0.0.1:6379")


def impatient(_: Path, patch: pytest.MonkeyPatch) -> None:
    patch.setattr(retry, "FIRST_PATIENCE_SECONDS", 0.0)


def bad_file(folder: Path, _: pytest.MonkeyPatch) -> None:
    (folder / "corpus/2.parquet").write_bytes(b"PAR1, and no more")


def nulls(folder: Path, _: pytest.MonkeyPatch) -> None:
    for number in range(3):
        table = pa.table({"key": range(20), "text": ["some text"] * 15 + [None] * 5, "topic": ["t"] * 20})
        pq.write_table(table, folder / f"corpus/{number}.parquet")


def busy_hub(_: Path, patch: pytest.MonkeyPatch) -> None:
    hub(patch, HTTPStatus.TOO_MANY_REQUESTS)


def csv_file(name: str, content: bytes) -> Case:
    """Plans a CSV file in the place of the corpus."""

    def prepare(folder: Path, _: pytest.MonkeyPatch) -> None:
        (folder / name).write_bytes(content)

    source = "--set source.docs.format=csv --set source.docs.path="
    return f"{PLAN} {source}{name}", prepare


PLAN = "plan job.yaml"
CASES: dict[str, Case] = {
    "There is no config file": ("plan jib.yaml", nothing),
    "The config is not YAML": ("plan tab.yaml", file("tab.yaml", "source:\n\tdocs: {}\n")),
    "The config is empty": ("plan empty.yaml", file("empty.yaml", "# to do\n")),
    "Several mistakes at once": (
        "plan three.yaml",
        file("three.yaml", "source: {docs: {path: x.parquet, txt_column: a}}\noutput: {rows_per_shard: 0}"),
    ),
    "An override without a section": (f"{PLAN} --set max_tokens=128", nothing),
    "Credentials in a URL": (f"{PLAN} --set source.docs.path=s3://key:secret@bucket/x.parquet", nothing),
    "A protocol that is not supported": (f"{PLAN} --set source.docs.path=ftp://host/x.parquet", nothing),
    "The output lies in a source": (
        f"{PLAN} --set source.docs.path=corpus --set source.docs.format=parquet --set output.path=corpus/out",
        nothing,
    ),
    "A nightly job without a date": (f"nightly job.yaml {SERIES}", nothing),
    "The output is not a series": ("rollback job.yaml", nothing),
    "No dataset to go back to": (f"rollback job.yaml {SERIES} --to 2026-11-24", nothing),
    "Changes without a base": (f"{PLAN} --set reuse.changes=true", nothing),
    "Datasets whose rows can't be compared": ("changes new --since old", other_ids),
    "Two rows of one id": ("changes new --since old", repeated_ids),
    "Changes since another dataset of that name": ("changes new --since old", made_again),
    "No table to publish": (f"publish job.yaml {SERIES}", nothing),
    "A catalog that pyiceberg does not know": (f"publish job.yaml {SERIES} {LAKE_TABLE}", catalog_at(None)),
    "A catalog that does not answer": (
        f"publish job.yaml {SERIES} {LAKE_TABLE}", catalog_at("http://127.0.0.1:9"),
    ),
    "A table with other columns": (
        f"publish job.yaml {SERIES} --set publish.beside.format=delta", table_of_texts,
    ),
    "The base is not complete": (f"{PLAN} --set reuse.base=yesterday", nothing),
    "Relative paths on a cluster": ("run job.yaml", on_a_cluster),
    "No file where the source points": (f"{PLAN} --set source.docs.path=corpus/*.pq", nothing),
    "The source is a table of Delta Lake, Iceberg or Hudi": (
        f"{PLAN} --set source.docs.path=lake/*.parquet",
        lake,
    ),
    "The library of a table is not installed": (f"{PLAN} {LAKE}", without_its_library),
    "The table does not have the version": (f"{PLAN} {LAKE} --set source.docs.version=7", delta_table()),
    "A table with features that can't be read": (f"{PLAN} {LAKE}", delta_table("v2Checkpoint")),
    "A source without rows": ("run job.yaml --set source.docs.path=empty/*.parquet", without_rows),
    "An unknown format": (f"{PLAN} --set source.docs.path=corpus", nothing),
    "The text column is missing": (f"{PLAN} --set source.docs.text_column=body", nothing),
    "No second texts": (
        f"{PLAN} --set model.name=model --set source.docs.text_pair_column=question", paired,
    ),
    "The text column is not text": (f"{PLAN} --set source.docs.text_column=key", nothing),
    "A header in another encoding": csv_file("gbk.csv", "编号,正文\n1,今天\n".encode("gbk")),
    "Another delimiter": csv_file("semicolon.csv", b"key;text\n1;one\n"),
    "Lines that end with CR": csv_file("old.csv", b"key,text\r1,one\r"),
    "JSON that is not a line each": (
        f"{PLAN} --set source.docs.format=jsonl --set source.docs.path=list.jsonl",
        file("list.jsonl", '[\n{"text": "one"},\n{"text": "two"}\n]\n'),
    ),
    "A note to Excel": csv_file("note.csv", b"sep=;\nkey;text\n1;one\n"),
    "A pointer of Git LFS": csv_file("docs.csv", b"version https://git-lfs.github.com/spec/v1\n"),
    "An archive": csv_file("docs.txt", b"PK\x03\x04 and more"),
    "An unknown encoding": (f"{PLAN} --set source.docs.encoding=gkb", nothing),
    "A carried column does not exist": (f"{PLAN} --set source.docs.carry=[author]", nothing),
    "Two columns of one name": (f"{PLAN} --set source.docs.carry=[Embedding]", column("Embedding")),
    "A model that does not exist": (f"{PLAN} --set model.name=no/model", nothing),
    "A folder in object storage without a model": (
        f"{PLAN} --set model.name=memory://models/text", no_model_in_storage,
    ),
    "The Hub is too busy": (f"{PLAN} --set model.name=albert/albert-base-v2", busy_hub),
    "More tokens than positions": (f"{PLAN} --set model.max_tokens=4096", nothing),
    "A head that the checkpoint lacks": (
        f"{PLAN} --set model.name=model --set model.outputs=[classification]", headless,
    ),
    "Entities or tokens of pairs": (
        f"{PLAN} --set model.name=model --set source.docs.text_pair_column=question "
        "--set model.outputs=[tokens]",
        paired,
    ),
    "A model of another family": (
        f"{PLAN} --set model.name=model --set model.engine=native",
        file("model/config.json", '{"model_type": "electra"}'),
    ),
    "A model that nothing here can run": (
        f"{PLAN} --set model.name=model", file("model/config.json", '{"model_type": "my_bert"}'),
    ),
    "A model that is code of its own": (
        f"{PLAN} --set model.name=model",
        file("model/config.json", '{"model_type": "my_bert", "auto_map": {"AutoModel": "mine.Model"}}'),
    ),
    "A model without weights": (f"{PLAN} --set model.name=model", without_weights),
    "A tokenizer of another class": (
        f"{PLAN} --set model.name=model", with_vocab(*ascii_letters, tokenizer_class="BertJapaneseTokenizer"),
    ),
    "A tokenizer whose rules do not fit": (
        f"{PLAN} --set model.name=model", with_vocab(*PROBES[2], *map(chr, range(0xAC00, 0xD7A3, 270))),
    ),
    "bfloat16 on a CPU": (f"{PLAN} --set model.dtype=bfloat16", nothing),
    "Windows that overlap too much": (
        f"{PLAN} --set model.long_text=chunks --set model.chunk_overlap=400", nothing,
    ),
    "The output is a file": ("run job.yaml --set output.path=corpus/0.parquet", nothing),
    "A file of the dataset is damaged": ("status job.yaml", damaged_plan),
    "Rows can't be embedded again without a config": ("verify out --deep 0.1", claimed),
    "No dataset here": ("search job.yaml moon", nothing),
    "Storage that does not answer": (
        f"{PLAN} --set source.docs.path=s3://b/x.parquet "
        "--set source.docs.options.endpoint_url=http://127.0.0.1:9",
        impatient,
    ),
    "A dataset that is being removed": ("run job.yaml", being_removed),
    "A complete dataset that is being removed": ("run job.yaml", gone_before_its_end),
    "Back to a dataset that is being removed": (
        f"rollback job.yaml {SERIES} --to 2026-11-22", pruned_beside_a_rollback,
    ),
    "Removed beneath a run": ("run job.yaml", removed),
    "Removed beneath a run, and made again": ("run job.yaml", made_anew),
    "Made by another config": (f"{PLAN} --set model.max_tokens=64", claimed),
    "A file that does not belong here": (PLAN, foreign),
    "Shards of another model or config": ("run job.yaml", of_another_model),
    "The source has moved on": ("run job.yaml", complete_and_moved_on),
}  # fmt: skip
ON_RAY: dict[str, Case] = {
    "Stages that do not fit": ("run job.yaml --set compute.cpus_per_replica=16", nothing),
    "No GPU": ("run job.yaml --set compute.device=cuda", nothing),
    "A file that can't be read": ("run job.yaml", bad_file),
    "Too many rejects": ("run job.yaml --set quality.max_reject_fraction=0.1", nulls),
}


@pytest.fixture
def folder(tmp_path: Path, corpus: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working folder of a user: a corpus, and the config of a job over it."""
    assert corpus == tmp_path / "corpus"
    source = {"path": "corpus/*.parquet", "text_column": "text", "id_column": "key"}
    write_config(tmp_path / "job.yaml", {"source": {"docs": source}, "output": {"path": "out"}})
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    return tmp_path


@pytest.mark.parametrize("name", CASES)
def test_what_the_page_shows_is_what_is_printed(
    name: str, folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    command, prepare = CASES[name]
    provoke(ENTRIES[name], command.split(), capsys, lambda: prepare(folder, monkeypatch))


@pytest.mark.full
@pytest.mark.usefixtures("ray_cluster")
@pytest.mark.parametrize("name", ON_RAY)
def test_what_the_page_shows_of_runs_is_what_is_printed(
    name: str, folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import ray

    if name == "No GPU" and ray.cluster_resources().get("GPU"):
        pytest.skip("this machine has one")
    command, prepare = ON_RAY[name]
    # Ray logs, and not always to the stream that is captured.
    provoke(ENTRIES[name], command.split(), capsys, lambda: prepare(folder, monkeypatch), after_others=True)


def test_every_error_of_the_page_is_provoked_and_explained() -> None:
    assert set(ENTRIES) == {*CASES, *ON_RAY, *S3_CASES, *ENDED, *NO_RAY}
    for name, entry in ENTRIES.items():
        assert entry.message.splitlines()[-1].startswith(f"exit {entry.code}: "), name
        assert len(entry.text) > 40, name


def test_a_user_error_shows_its_traceback_when_asked_for(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["plan", str(folder / "job.yaml"), "--debug", "--set", "model.max_tokens=4096"])
    assert "Traceback (most recent call last)" in capsys.readouterr().err


NO_USER_SEES = {"ExistsError", "ReplacedError"}


def calls() -> list[tuple[str, ast.Call]]:
    """Returns the places where the package creates one of its own errors, and the calls."""
    names = {
        name
        for name, kind in vars(errors).items()
        if isinstance(kind, type) and issubclass(kind, PipelineError)
    }
    names -= NO_USER_SEES
    return [
        (f"{path.name}:{node.lineno}", node)
        for path in sorted(Path(errors.__file__).parent.rglob("*.py"))
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in names
    ]


SAYS_IT_ITSELF = {"base.py": 6, "load.py": 2, "prune.py": 1, "verify.py": 1}
"""Messages whose first part is made elsewhere and says what to do; in base.py, reasons of warnings."""


def test_every_error_says_what_to_do() -> None:
    """Checks in the code that each error gives a hint, except a few that say it in their message."""
    bare = [
        place
        for place, call in calls()
        if len(call.args) < 4 and not any(keyword.arg == "hint" for keyword in call.keywords)
    ]
    assert len(calls()) > 100
    counts = {
        name: sum(place.startswith(f"{name}:") for place in bare) for name in {p.split(":")[0] for p in bare}
    }
    assert counts == SAYS_IT_ITSELF, bare


def test_every_exit_code_of_an_error_is_one_of_the_list() -> None:
    kinds = [
        kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, PipelineError)
    ]
    assert all(isinstance(kind.exit_code, ExitCode) for kind in kinds)


@pytest.mark.parametrize(
    ("error", "shown"),
    [
        (ValueError("  first\nsecond"), "first"),
        (ValueError("\n\n"), "ValueError('\\n\\n')"),
        (KeyError(), "KeyError()"),
        (OSError("s3://user:secret@bucket \x1b[2J"), "s3://***@bucket \ufffd[2J"),
        (errors.ConfigError("is wrong", "x", "1", "fix it", more=["one"]), "x: is wrong (got 1); fix it"),
    ],
)
def test_an_error_is_told_in_one_line(error: Exception, shown: str) -> None:
    assert errors.one_line(error) == shown
