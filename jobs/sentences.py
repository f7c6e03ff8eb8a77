"""Makes an English corpus to distil on: WordNet, docstrings, and sentences composed of WordNet's words.

Nothing is copied into the project: WordNet comes from Debian's package (permissive licence), docstrings come
from the Python that runs this. The composed sentences ("Two children are eating the apple.") are about
everyday life, which glosses and docstrings rarely mention; their meaning comes from the teacher.
"""

import hashlib
import random
import re
import subprocess
import sysconfig
import tempfile
from collections.abc import Iterator, Sequence
from itertools import chain
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from jobs.docstrings import docstrings

LONGEST = 1000
"""Most characters of a text: they give about as many tokens as the student is trained on."""
KINDS = {
    "animal": 5, "thing": 6, "body": 8, "food": 13, "place": 15, "nature": 17, "person": 18, "plant": 20,
    "eat": 34, "touch": 35, "make": 36, "move": 38, "see": 39, "talk": 32, "own": 40, "work": 41,
}  # fmt: skip
"""WordNet's lexicographer files (lexnames(5WN)) whose words fit into sentences about the world."""
VERBS = ("eat", "touch", "make", "move", "see", "talk", "own", "work")
TEMPLATES = (
    "{a:person} is {verb:ing} {a:thing}.",
    "{a:person} is {verb:ing} {a:food}.",
    "{a:person} is {verb:ing} the {thing} {where} the {place}.",
    "{a:animal} is {verb:ing} {where} the {nature}.",
    "{a:animal} is {verb:ing} {a:animal}.",
    "two {person:s} are {verb:ing} {where} {a:place}.",
    "two {animal:s} {verb} {where} the {thing}.",
    "{a:person} in {a:adjective} {thing} is {verb:ing}.",
    "{a:adjective} {person} with {a:thing} {verb:s} the {person}.",
    "{a:adjective} {animal} {where} {a:adjective} {thing}.",
    "{a:adjective} {thing} and {a:adjective} {thing} {where} {a:place}.",
    "the {person} {adverb} {verb:s} the {thing}.",
    "the {person} is not {verb:ing} the {thing}.",
    "there is no {person} {verb:ing} {a:animal}.",
    "{person:s} {verb} {thing:s} {where} {place}",
    "{place} {person} {verb:s} {number} {person:s}",
    "{number} {person:s} {verb} {place} {thing}",
    "why do {person:s} {verb} the {thing}?",
    "how can I {verb} {a:thing} with {a:thing}?",
    "you should {verb} the {thing} if the {person} {verb:s} it.",
)
WHERE = ("in", "on", "near", "behind", "under", "in front of", "next to", "over", "through", "outside")
NUMBERS = ("two", "three", "four", "five", "ten", "12", "20", "several", "many", "some", "100")


def make(path: Path, compositions: int, seed: int = 0) -> int:
    """Writes the corpus (`source`, `text`; distinct texts, in the same order each time), unless it exists.

    Returns:
        its number of texts.
    """
    if not path.exists():
        with tempfile.TemporaryDirectory() as scratch:
            wordnet = WordNet(_installed_or_fetched(Path(scratch)))
            texts = chain(wordnet.glosses(), documentation(), wordnet.compositions(compositions, seed))
            unique = {text: source for source, text in texts if len(text) > 2}
        order = sorted(unique, key=lambda text: hashlib.blake2b(text.encode("utf-8", "replace")).digest())
        path.parent.mkdir(parents=True, exist_ok=True)
        table = pa.table({"source": [unique[text] for text in order], "text": order})
        pq.write_table(table, path, compression="zstd")
    return int(pq.read_metadata(path).num_rows)


def documentation() -> Iterator[tuple[str, str]]:
    """Yields docstrings of the standard library and of all packages: their openings, and some in full."""
    for root in (Path(sysconfig.get_path("stdlib")), Path(sysconfig.get_path("purelib"))):
        for number, row in enumerate(docstrings(root)):
            text = row["docstring"].encode("utf-8", "ignore").decode()
            opening = text.split("\n\n", 1)[0]
            yield "docstring", " ".join(opening.split())[:LONGEST]
            if number % 6 == 0:
                yield "docstring", text[:LONGEST]


class WordNet:
    """The database files of WordNet 3.0 (wndb(5WN)).

    Args:
        folder: the folder of `data.noun`, `cntlist.rev` and `verb.exc`.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def glosses(self) -> Iterator[tuple[str, str]]:
        """Yields definitions, alternately alone and after the words that they define, and examples."""
        for number, (_, words, gloss) in enumerate(self._synsets("noun", "verb", "adj", "adv")):
            definition, *examples = re.split(r';\s*(?=")', gloss)
            if not definition.startswith('"'):
                yield "wordnet", f"{', '.join(words)}: {definition}" if number % 2 else definition
            for example in examples:
                yield "wordnet", example.strip().strip('";')

    def compositions(self, count: int, seed: int) -> Iterator[tuple[str, str]]:
        """Yields sentences of common words, in groups of three that differ in one or two words."""
        writer = _Writer(self._common_words(), self._irregular(), random.Random(seed))
        for _ in range(count // 3):
            for sentence in writer.variants(3):
                yield "composed", sentence

    def _synsets(self, *parts: str) -> Iterator[tuple[int, list[str], str]]:
        """Yields (lexicographer file, words, gloss) of each set of synonyms."""
        for part in parts:
            for line in (self._folder / f"data.{part}").read_text(encoding="utf-8").splitlines():
                if not line.startswith("  "):  # the licence at the start
                    fields, _, gloss = line.partition(" | ")
                    columns = fields.split(" ")
                    words = columns[4 : 4 + 2 * int(columns[3], 16) : 2]
                    names = [re.sub(r"\(\w+\)$", "", word).replace("_", " ") for word in words]
                    yield int(columns[1]), names, gloss.strip()

    def _common_words(self) -> dict[str, list[str]]:
        """Returns words that WordNet's tagged texts use at least twice in the sense of a kind."""
        kind_of = {number: kind for kind, number in KINDS.items()}
        words: dict[str, list[str]] = {kind: [] for kind in (*KINDS, "adjective", "adverb")}
        for line in (self._folder / "cntlist.rev").read_text(encoding="utf-8").splitlines():
            key, _, count = line.split(" ")
            lemma, sense = key.split("%")
            part, file = (int(number) for number in sense.split(":")[:2])
            kind = {3: "adjective", 5: "adjective", 4: "adverb"}.get(part) or kind_of.get(file)
            if kind and int(count) > 1 and lemma.isalpha() and len(lemma) > 2:
                # Frequent words occur more often here, but far less than in proportion.
                words[kind] += [lemma] * min(4, 1 + int(count) // 8)
        return words

    def _irregular(self) -> dict[str, str]:
        """Returns the -ing forms that spelling rules don't give, by verb."""
        lines = (self._folder / "verb.exc").read_text(encoding="utf-8").splitlines()
        return {line.split()[1]: line.split()[0] for line in lines if line.split()[0].endswith("ing")}


class _Writer:
    """Fills templates with words."""

    def __init__(
        self, words: dict[str, list[str]], participles: dict[str, str], choice: random.Random
    ) -> None:
        self._words, self._participles, self._random = words, participles, choice
        self._words |= {
            "verb": [verb for kind in VERBS for verb in words[kind]],
            "where": [*WHERE],
            "number": [*NUMBERS],
        }

    def variants(self, count: int) -> Iterator[str]:
        """Yields the same sentence `count` times, each time with one or two slots filled again."""
        template = self._random.choice(TEMPLATES)
        slots = re.findall(r"{([^}]*)}", template)
        filled = [self._fill(slot) for slot in slots]
        for _ in range(count):
            yield re.sub(r"{[^}]*}", "%s", template) % tuple(filled)
            for slot in self._random.sample(range(len(slots)), k=self._random.choice((1, 1, 2))):
                filled[slot] = self._fill(slots[slot])

    def _fill(self, slot: str) -> str:
        """Fills `thing`, `thing:s` (plural or third person), `verb:ing` or `a:thing` (with its article)."""
        left, _, right = slot.partition(":")
        word = self._random.choice(self._words[right if left == "a" else left])
        if left == "a":
            return f"{'an' if word[0] in 'aeiou' else 'a'} {word}"
        return {"s": self._plural, "ing": self._participle}[right](word) if right else word

    def _participle(self, verb: str) -> str:
        if verb in self._participles:
            return self._participles[verb]
        return (verb[:-1] if re.search(r"[^eoy]e$", verb) else verb) + "ing"

    @staticmethod
    def _plural(word: str) -> str:
        if re.search(r"(s|x|z|ch|sh)$", word):
            return word + "es"
        return word[:-1] + "ies" if re.search(r"[^aeiou]y$", word) else word + "s"


def lines(texts: Sequence[str]) -> Iterator[str]:
    """Yields lines for a vocabulary's training, in lower case."""
    for text in texts:
        yield from (line for line in text.lower().splitlines() if line.strip())


def _installed_or_fetched(scratch: Path) -> Path:
    installed = Path("/usr/share/wordnet")
    if not (installed / "data.noun").exists():
        subprocess.run(["apt-get", "download", "wordnet-base"], cwd=scratch, check=True, capture_output=True)
        (package,) = scratch.glob("wordnet-base*.deb")
        subprocess.run(["dpkg-deb", "-x", package, scratch], check=True)
        installed = scratch / "usr/share/wordnet"
    return installed
