"""Compares the whole job, from files to shards, with other tools: same machine, same texts, same weights.

    python -m benchmarks.whole_job CORPORA [--tokens 6000] [--rounds 5] [--peers PYTHON] [--to FILE]

Each contender (`benchmarks/contenders/`) is a program of its own, started again for each run; the rounds
alternate. Seconds are those of the whole program. The table also shows the time for almost no work (four
texts, in the same round). The second rate subtracts this time: it is the rate of a long job. Weights are
random, of albert-base geometry. The vocabulary is that of the folder `shared/albert-base-v2` beside the
project if it exists, else albert-mini's. All vectors are compared with ours.
"""

import argparse
import json
import os
import secrets
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from matplotlib import pyplot

from benchmarks import corpora
from benchmarks.encoder import MIXES, make_model, sentence_transformer, texts_of
from benchmarks.spread import spread
from pipeline.model.checkpoint import resolve
from pipeline.model.tokenizer.tokenizer import Tokenizer
from tests.consumers import java

CONTENDERS = {
    "ours": "ours",
    "sentence-transformers": "sentence_transformers_alone",
    "Ray Data's recipe": "ray_recipe",
    "Daft": "daft_recipe",
    "Spark, pandas UDF": "spark_recipe",
}
Run = dict[str, Any]
"""A run: `round`, `name`, `mix` (None: a start), `seconds`; with a mix also `rows`, `tokens`, `cosine`."""
PEERS = ("Daft",)
"""Contenders that conflict with our packages, and have an environment of their own."""
FILES = 4
FEW_TEXTS = ("a", "b", "c", "d")
DUPLICATES = 0.2
VOCABULARY = Path(__file__).parents[2] / "shared" / "albert-base-v2"


def model_in(folder: Path) -> Path:
    """Writes a model that sentence-transformers, and so every contender, loads: token mean, length 1."""
    raw = make_model(folder / "raw", str(VOCABULARY) if VOCABULARY.exists() else "albert-mini")
    sentence_transformer(raw, "cpu").save(str(folder / "model"))
    return folder / "model"


def texts(mix: str, folder: Path, tokens: int, tokenizer: Tokenizer) -> list[str]:
    """Draws texts of a mix with a fixed seed until they have `tokens` tokens."""
    if mix == "mixed, a fifth twice":
        share = tokens * (1 - DUPLICATES) / len(MIXES)
        kinds = [texts(each, folder, int(share), tokenizer) for each in MIXES]
        found = [text for kind in kinds for text in kind]
        rng = np.random.default_rng(1)
        twice = rng.choice(len(found), int(len(found) * DUPLICATES / (1 - DUPLICATES)))
        found += [found[at] for at in twice]
        return [found[at] for at in rng.permutation(len(found))]
    many = texts_of(mix, folder, 2000)
    counts = np.cumsum(tokenizer.encode(pa.array(many, pa.large_string())).lengths)
    return many[: int(np.searchsorted(counts, tokens)) + 1]


def write(found: Sequence[str], folder: Path) -> Path:
    """Writes texts as Parquet files with ids."""
    folder.mkdir(parents=True)
    ids = np.array_split(np.arange(len(found)), min(FILES, len(found)))
    for number, part in enumerate(ids):
        rows = {"id": part.tolist(), "text": [found[at] for at in part]}
        pq.write_table(pa.table(rows), folder / f"{number}.parquet")
    return folder


def run(name: str, source: Path, output: Path, model: Path, peers: str) -> float:
    """Returns the seconds of one run.

    Raises:
        RuntimeError: the run failed; the message has the end of its output.
    """
    program = Path(__file__).parent / "contenders" / f"{CONTENDERS[name]}.py"
    command = [peers if name in PEERS else sys.executable, str(program), str(source), str(output), str(model)]
    begun = time.perf_counter()
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=1800)
    if done.returncode:
        raise RuntimeError(f"{name}: {done.stderr[-2000:]}")
    return time.perf_counter() - begun


def vectors(output: Path, count: int) -> np.ndarray[Any, Any]:
    """Returns the (count, 768) vectors that a contender wrote, by id."""
    folder = output / "data" if (output / "data").exists() else output
    tables = [pq.read_table(file, columns=["id", "embedding"]) for file in sorted(folder.glob("*.parquet"))]
    ids = np.concatenate([table["id"].to_numpy() for table in tables])
    assert sorted(ids) == list(range(count)), f"{output}: {len(ids)} rows of {count}"
    found = np.empty((count, 768), np.float32)
    found[ids] = np.concatenate([np.array(table["embedding"].to_pylist(), np.float32) for table in tables])
    return found


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("corpora", type=Path)
    parser.add_argument("--tokens", type=int, default=6_000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--peers", default=sys.executable, help="the Python of peers' own environment")
    parser.add_argument("--only", nargs="*", default=list(CONTENDERS))
    parser.add_argument("--mixes", nargs="*", default=[*MIXES, "mixed, a fifth twice"])
    parser.add_argument("--to", type=Path, default=Path("whole_job.json"))
    told = parser.parse_args()
    corpora.make(told.corpora)
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        java_home = str(java.home(folder / "java"))
        os.environ |= {"JAVA_HOME": java_home, "SPARK_LOCAL_IP": "127.0.0.1"}
        os.environ |= {
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN": secrets.token_hex(32),
        }  # of the recipe's Ray
        model = model_in(folder)
        tokenizer = Tokenizer(resolve(str(model)))
        few = write(FEW_TEXTS, folder / "few")
        found: list[Run] = []
        sources = {}
        for mix in told.mixes:
            drawn = texts(mix, told.corpora, told.tokens, tokenizer)
            total = int(tokenizer.encode(pa.array(drawn, pa.large_string())).lengths.sum())
            sources[mix] = write(drawn, folder / "source" / mix.split(",")[0]), len(drawn), total
        for number in range(told.rounds):
            for name in told.only:
                idle = run(name, few, folder / "out", model, told.peers)
                shutil.rmtree(folder / "out")
                found.append({"round": number, "name": name, "mix": None, "seconds": idle})
            for mix, (source, rows, total) in sources.items():
                reference = None
                for name in told.only:
                    took = run(name, source, folder / "out", model, told.peers)
                    made = vectors(folder / "out", rows)
                    shutil.rmtree(folder / "out")
                    reference = made if reference is None else reference
                    found.append(
                        {
                            "round": number, "name": name, "mix": mix, "seconds": took, "rows": rows,
                            "tokens": total, "cosine": float((made * reference).sum(1).min()),
                        }
                    )  # fmt: skip
                    print(found[-1], flush=True)
            told.to.write_text(json.dumps(found))
    draw(found, told.to.with_suffix(".svg"))
    print(table(found))


def seconds(found: Sequence[Run], name: str, mix: str | None) -> list[float]:
    """Returns the seconds of each run of a contender; without a mix, those of its start alone."""
    return [run["seconds"] for run in found if (run["name"], run["mix"]) == (name, mix)]


def working(found: Sequence[Run], name: str, mix: str) -> float:
    """Returns the seconds of the median run, without its start."""
    return statistics.median(seconds(found, name, mix)) - statistics.median(seconds(found, name, None))


def table(found: Sequence[Run]) -> str:
    """Formats the runs as Markdown: medians, spreads, ratios to ours."""
    lines = [
        "| texts | by | seconds (least to most) | of them start | tokens/s | without start "
        "| ours is faster by | least cosine to ours |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for mix, name in dict.fromkeys((run["mix"], run["name"]) for run in found if run["mix"]):
        runs = [run for run in found if (run["name"], run["mix"]) == (name, mix)]
        times, work, tokens = seconds(found, name, mix), working(found, name, mix), runs[0]["tokens"]
        median = statistics.median(times)
        lines.append(
            f"| {mix} | {name} | {spread(times, '.1f')} | {median - work:.1f} "
            f"| {tokens / median:,.0f} | {tokens / work:,.0f} | {work / working(found, 'ours', mix):.2f} "
            f"| {min(run['cosine'] for run in runs):.6f} |"
        )
    return "\n".join(lines)


def draw(found: Sequence[Run], picture: Path) -> None:
    """Draws tokens per second without the start, in a group of bars for each kind of text."""
    tokens = {run["mix"]: run["tokens"] for run in found if run["mix"]}
    names = list(dict.fromkeys(run["name"] for run in found))
    figure, axes = pyplot.subplots(figsize=(9, 3.2))
    for at, name in enumerate(names):
        rates = [tokens[mix] / working(found, name, mix) for mix in tokens]
        axes.bar(np.arange(len(tokens)) + at * 0.8 / len(names), rates, 0.75 / len(names), label=name)
    axes.set_xticks(np.arange(len(tokens)) + 0.4 * (1 - 1 / len(names)), list(tokens))
    axes.set_ylabel("tokens per second")
    axes.legend(frameon=False, fontsize=8)
    axes.spines[["top", "right"]].set_visible(False)
    figure.tight_layout()
    figure.savefig(picture)


if __name__ == "__main__":
    main()
