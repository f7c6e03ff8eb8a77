"""The docs hold what they say: configs load, commands run, pages are up to date."""

import re
import shlex
from pathlib import Path

import pytest
import yaml

from docs import configuration
from pipeline import cli, config
from pipeline.errors import ExitCode

ROOT = Path(__file__).parent.parent
JOBS = [path for path in sorted((ROOT / "configs").glob("*.yaml")) if path.name != "distill.yaml"]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


def blocks(language: str) -> list[str]:
    """The fenced blocks of a language in all pages."""
    return [
        block for page in PAGES for block in re.findall(rf"```{language}\n(.*?)```", page.read_text(), re.S)
    ]


@pytest.mark.parametrize("path", sorted((ROOT / "configs").glob("*.yaml")), ids=lambda path: path.name)
def test_every_shipped_config_loads(path: Path) -> None:
    if path.name == "distill.yaml":
        from jobs import distill

        distill.load(path, [])
    else:
        config.load(str(path))


@pytest.mark.parametrize("text", blocks("yaml"))
def test_every_config_in_the_docs_loads(text: str) -> None:
    config.parse(yaml.safe_load(text))


def test_the_page_of_all_fields_is_up_to_date() -> None:
    assert configuration.PAGE.read_text() == configuration.page(), "run `make docs`"


def test_every_command_in_the_docs_is_one_that_is_run() -> None:
    """`make` targets exist; our own commands parse, and plan and status of the demo run right here."""
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.M))
    outputs = {config.load(str(path)).output.path for path in JOBS}
    lines = [line.strip() for block in blocks("bash") for line in block.splitlines() if line.strip()]
    assert lines
    for line in lines:
        if line.startswith("make "):
            assert line.split()[1] in targets
        elif line.startswith("python -m pipeline "):
            arguments = vars(cli.parser().parse_args(shlex.split(line)[3:]))
            if "dataset" in arguments:
                assert arguments["dataset"] in outputs
            else:
                assert (ROOT / arguments["config"]).exists()
        elif line.startswith("python -m jobs.distill "):
            assert (ROOT / line.split()[3]).exists()  # run by tests/test_distill.py
        elif line.startswith("python -m benchmarks."):
            assert (ROOT / "benchmarks" / f"{line.split()[2].split('.')[1]}.py").exists()
        else:  # run for real on a cluster in tests/flow/test_jobs.py; as a process in tests/test_cli.py
            submit, _, command = line.partition(" -- ")
            assert submit == "ray job submit --working-dir ."
            assert command in (
                "python -m jobs.embed configs/cluster.yaml",
                "python -m jobs.nightly configs/nightly.yaml --run-date 2026-11-25",
            )


def test_the_exit_codes_of_the_readme_are_the_real_ones() -> None:
    table = re.findall(r"^\| (\d) \|", (ROOT / "README.md").read_text(), re.M)
    assert [int(code) for code in table] == [int(code) for code in ExitCode]


def test_links_lead_somewhere() -> None:
    for page in PAGES:
        for link in re.findall(r"\]\(([^)#:]+)\)", page.read_text()):
            assert (page.parent / link).exists(), f"{page.name}: {link}"
