"""What one would type: the examples that `--help` ends with."""

OF = {
    "plan": (
        ("plan configs/demo.yaml", "what would run, and about what it would cost"),
        ("plan configs/demo.yaml --set cost.price_per_hour=0.40", "with a price"),
        ("plan configs/demo.yaml --json", "all figures, for a script"),
    ),
    "run": (
        ("run configs/demo.yaml", "do it, or what is left of it"),
        ("run configs/demo.yaml --set model.max_tokens=128 --set output.path=/tmp/short", "another dataset"),
    ),
    "status": (
        ("status configs/demo.yaml", "how far it is, and whether it shows life"),
        ("status configs/nightly.yaml --run-date 2026-11-25", "of one night"),
        ("status .demo/embeddings", "of a dataset whose config is elsewhere"),
    ),
    "report": (("report configs/demo.yaml --to report.html", "what was done, on a page"),),
    "search": (('search configs/demo.yaml "copy a file"', "the rows nearest to a text"),),
    "nightly": (("nightly configs/nightly.yaml --run-date 2026-11-25", "embed what changed"),),
    "retry-rejects": (("retry-rejects configs/nightly.yaml --run-date 2026-11-25", "in a new dataset"),),
    "rollback": (
        ("rollback configs/nightly.yaml", "let readers follow the dataset before"),
        ("rollback configs/nightly.yaml --to 2026-11-24", "or one that is named"),
        ("rollback configs/nightly.yaml --unpin", "let runs move them on again"),
    ),
    "prune": (("prune configs/nightly.yaml --keep 7 --dry-run", "which old datasets nobody needs"),),
    "verify": (
        ("verify .demo/embeddings", "is all there, and as it was written"),
        ("verify .demo/embeddings --config configs/demo.yaml", "and whether its sources are as planned"),
        (
            "verify .demo/embeddings --config configs/demo.yaml --deep 0.01",
            "and embed one row of a hundred again",
        ),
    ),
    "completion": (
        ("completion bash", "in ~/.bashrc: source <(albert-embed completion bash)"),
        ("completion zsh", "into a file _albert-embed of a folder in $fpath"),
    ),
}
"""Of each command: what follows `python -m pipeline`, and what it is for."""
CODES = """
exit codes: 0 done; 1 a bug of ours; 2 config; 3 files failed, too many rejects, or findings; 4 run it again;
            5 the output belongs to another config; 6 complete, but the source has moved on
"""


def of(command: str) -> str:
    """The examples of one command."""
    return _text(OF.get(command, ()))


def all_commands() -> str:
    """The first of each, and the exit codes."""
    return _text(tuple(examples[0] for examples in OF.values())) + CODES


def _text(examples: tuple[tuple[str, str], ...]) -> str:
    return "\n".join(
        ["examples:", *(f"  # {what}\n  python -m pipeline {command}" for command, what in examples), ""]
    )
