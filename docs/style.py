"""Checks the English of code and pages for the patterns that a machine can find: `python -m docs.style`.

A docstring starts with a verb in the third person, or names what a class or a constant is: it does not start
with a preposition or a question word. Nothing "is no" something: it "is not a" something.

The check is a floor. It finds what was once frequent here, and says nothing about the rest.
"""

import ast
import re
import sys
import tokenize
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[1]
CODE = ("pipeline", "jobs", "benchmarks", "docs", "tests")
HEADLESS = re.compile(
    r"(?:About|As|At|Before|Behind|Below|Beside|By|For|From|How|If|In|Into|Of|On|Out|That|To|What|When|Where"
    r"|Whether|Which|While|Who|Whoever|Whom|Whose|Why|With|Without)\b"
)
"""What a docstring does not start with."""
WORDS = re.compile(
    r"(?<!there )\b(?:is|are|was|were) no (?!longer\b|more\b|less\b|later\b)|\banew\b|\bmend(?:s|ed|ing)?\b",
    re.I,
)
"""What neither code nor pages say."""
PAGES = ("README.md", "CHANGELOG.md", "docs/*.md", "k8s/**/*.md", "pipeline/model/albert-mini/README.md")


def main() -> int:
    """Prints each finding as `file:line: what`; returns 1 where there is one."""
    findings = [*_of_code(), *_of_pages()]
    for finding in findings:
        sys.stdout.write(f"{finding}\n")
    return int(bool(findings))


def _of_code() -> Iterator[str]:
    for path in sorted(path for folder in CODE for path in (ROOT / folder).rglob("*.py")):
        if path != Path(__file__):
            yield from headless(path)
            yield from words_in_code(path)


def headless(path: Path) -> Iterator[str]:
    """Finds docstrings of modules, classes and functions that start without their verb or noun."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef):
            text = ast.get_docstring(node) or ""
            if HEADLESS.match(text):
                line = getattr(node, "lineno", 1)
                yield f"{path.relative_to(ROOT)}:{line}: a docstring starts with {text.split()[0]!r}"


def words_in_code(path: Path) -> Iterator[str]:
    """Looks at texts and comments alone: a name may be a word of ours."""
    kinds = {tokenize.STRING, tokenize.COMMENT, getattr(tokenize, "FSTRING_MIDDLE", tokenize.STRING)}
    with path.open("rb") as file:
        for token in tokenize.tokenize(file.readline):
            if token.type in kinds:
                yield from _words(path, token.string, token.start[0])


def _of_pages() -> Iterator[str]:
    for path in sorted(path for pattern in PAGES for path in ROOT.glob(pattern)):
        yield from _words(path, path.read_text(), 1)


def _words(path: Path, text: str, line: int) -> Iterator[str]:
    for found in WORDS.finditer(text):
        at = line + text[: found.start()].count("\n")
        yield f"{path.relative_to(ROOT)}:{at}: says {found.group().strip()!r}"


if __name__ == "__main__":
    sys.exit(main())
