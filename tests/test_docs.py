"""Checks the docs: configs load, commands run, pages are up to date."""

import re
import shlex
from pathlib import Path

import pytest
import yaml

from docs import configuration, style
from jobs import docstrings
from pipeline import cli
from pipeline.config.load import load_config, parse_config
from pipeline.errors import ExitCode

ROOT = Path(__file__).parent.parent
CONFIGS = [path for path in sorted((ROOT / "configs").glob("*.yaml")) if path.name != "kustomization.yaml"]
JOBS = [path for path in CONFIGS if path.name != "distill.yaml"]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


def blocks(language: str) -> list[str]:
    """Returns the fenced blocks of a language in all pages."""
    return [
        block for page in PAGES for block in re.findall(rf"```{language}\n(.*?)```", page.read_text(), re.S)
    ]


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.name)
def test_every_shipped_config_loads(path: Path) -> None:
    if path.name == "distill.yaml":
        from jobs import distill

        distill.load(path, [])
    else:
        load_config(str(path))


@pytest.mark.parametrize("text", blocks("yaml"))
def test_every_config_in_the_docs_loads(text: str) -> None:
    parse_config(yaml.safe_load(text))


def test_the_page_of_all_fields_is_up_to_date() -> None:
    assert configuration.PAGE.read_text() == configuration.page(), "run `make docs`"


def test_every_command_in_the_docs_is_one_that_is_run() -> None:
    """Checks that `make` targets exist and our own commands parse; read-only commands run below."""
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.M))
    outputs = {load_config(str(path)).output.path for path in JOBS}
    lines = [line.strip() for block in blocks("bash") for line in block.splitlines() if line.strip()]
    assert lines
    for line in lines:
        if line.startswith("make "):
            assert line.split()[1] in targets
        elif line.startswith("python -m pipeline "):
            arguments = vars(cli.parser().parse_args(shlex.split(line)[3:]))
            if line.startswith("python -m pipeline init "):
                continue  # run by tests/cli/test_init.py
            where = arguments.get("config") or arguments["dataset"]
            # The last one is written and run by tests/test_readme.py.
            assert where in outputs or (ROOT / where).exists() or where == "articles.yaml"
        elif line == "source <(albert-embed completion bash)":
            pass  # run by tests/cli/test_cli.py
        elif line.startswith("python -m jobs.distill "):
            assert (ROOT / line.split()[3]).exists()  # run by tests/jobs/test_distill.py
        elif line.startswith("python -m jobs.train_head "):
            pass  # run by tests/jobs/test_train_head.py
        elif line.startswith("python -m benchmarks."):
            assert (ROOT / "benchmarks" / f"{line.split()[2].split('.')[1]}.py").exists()
        elif line.startswith(("kubectl ", "helm ", "docker ", "export RAY_")):
            pass  # checked as far as goes without a cluster, by tests/k8s/test_walk.py
        else:  # run for real on a cluster in tests/jobs/test_jobs.py; as a process in tests/cli/test_cli.py
            submit, _, command = line.partition(" -- ")
            assert submit == "ray job submit --working-dir ."
            assert command in (
                "python -m jobs.embed configs/cluster.yaml",
                "python -m jobs.nightly configs/nightly.yaml --run-date 2026-11-25",
            )


def test_plan_and_status_of_the_docs_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The demo's source is where `make demo` would have put it."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "configs").symlink_to(ROOT / "configs")
    docstrings.write(tmp_path / ".demo" / "source")
    lines = {line.strip() for block in blocks("bash") for line in block.splitlines()}
    looking = [line for line in lines if re.match(r"python -m pipeline (plan|status) configs/demo", line)]
    assert len(looking) >= 4
    for line in looking:
        assert cli.main(shlex.split(line)[3:]) == ExitCode.DONE, line


def test_the_exit_codes_of_the_readme_are_the_real_ones() -> None:
    table = re.findall(r"^\| (\d) \|", (ROOT / "README.md").read_text(), re.M)
    assert [int(code) for code in table] == [int(code) for code in ExitCode]


def test_links_lead_somewhere() -> None:
    for page in PAGES:
        for link in re.findall(r"\]\(([^)#:]+)\)", page.read_text()):
            assert (page.parent / link).exists(), f"{page.name}: {link}"


def test_the_check_of_the_english_finds_what_it_is_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(style, "ROOT", tmp_path)
    path = tmp_path / "page.py"
    text = '"""Of two things."""\n\n\ndef good() -> str:\n    """Returns one."""\n    return "is {} file"\n'
    path.write_text(text.format("no"))
    assert list(style.headless(path)) == ["page.py:1: a docstring starts with 'Of'"]
    assert list(style.words_in_code(path)) == ["page.py:6: says 'is no'"]
