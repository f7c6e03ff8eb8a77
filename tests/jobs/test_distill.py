"""Tests the recipe of albert-mini at a small size: a few minutes from scratch teach a student something."""

from pathlib import Path

import pytest

from benchmarks import stsb
from pipeline.model import checkpoint

ROOT = Path(__file__).parents[2]


def test_arguments_override_the_file() -> None:
    from jobs import distill

    settings = distill.load(
        ROOT / "configs/distill.yaml", ["work=/x", "corpus.texts=5", "student.num_hidden_layers=2"]
    )
    assert (settings.work, settings.corpus.texts, settings.student["num_hidden_layers"]) == (Path("/x"), 5, 2)
    assert settings.corpus.held_out == 4000


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_a_short_distillation_teaches_something(tmp_path: Path) -> None:
    from jobs import distill

    if not stsb.DATA.exists():
        pytest.skip(f"no STS-B at {stsb.DATA}: set STSB_DEV")
    small = [
        f"work={tmp_path}/work", f"output={tmp_path}/student", "corpus.texts=20000",
        "corpus.compositions=20000", "corpus.held_out=1000", "student.vocab_size=8000",
        "student.num_hidden_layers=2", "training.tokens=400000", "training.evaluations=4",
    ]  # fmt: skip
    distill.main([str(ROOT / "configs/distill.yaml"), *small])
    data = stsb.pairs(stsb.DATA)
    (tmp_path / "chance").mkdir()
    chance = stsb.untrained(tmp_path / "student", tmp_path / "chance")
    taught, before = (stsb.spearman(stsb.ours(folder), *data) for folder in (tmp_path / "student", chance))
    print(f"STS-B dev: {taught:.3f} taught, {before:.3f} untrained")
    assert taught > before + 0.05
    assert (tmp_path / "work/curve.svg").stat().st_size > 0
    checkpoint.resolve(str(tmp_path / "student")).check()
