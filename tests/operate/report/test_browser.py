"""Opens the report in a real browser: it is drawn, fits a phone, loads nothing, and shows texts on touch."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.errors import ExitCode
from tests.browser import Tab, chromium
from tests.conftest import texts
from tests.reports import HOSTILE, Job, ended, hostile

FIGURES = {
    "Throughput": "rect", "Where the time went": "rect", "Work done, work saved": "rect",
    "Lengths of the texts": "rect", "Shards": "rect", "Rejected rows": "rect",
    "A map of the vectors": "circle",
}  # fmt: skip
SEEN = """
Object.fromEntries([...document.querySelectorAll("section")].map(section => [
  section.querySelector("h2").textContent,
  [...section.querySelectorAll("MARK")].filter(mark => {
    const box = mark.getBoundingClientRect();
    return box.width > 0 && box.height > 0;
  }).length,
]))
"""
"""Counts the marks of each section that have a size."""
WIDER = """
[...document.querySelectorAll("body *")].filter(each => {
  const box = each.getBoundingClientRect();
  return box.width > 0 && (box.right > innerWidth + 1 || box.left < -1);
}).map(each => each.tagName + ": " + each.textContent.slice(0, 60))
"""
CUT = """
[...document.querySelectorAll("svg text")].filter(text => {
  const box = text.getBoundingClientRect(), whole = text.ownerSVGElement.getBoundingClientRect();
  return box.width > 0 && (box.left < whole.left - 1 || box.right > whole.right + 1
    || box.top < whole.top - 1 || box.bottom > whole.bottom + 1);
}).map(text => text.textContent)
"""
"""Finds texts of charts that are cut off at an edge."""


@pytest.fixture(scope="module")
def tab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Tab]:
    with chromium(tmp_path_factory.mktemp("chromium")) as running:
        yield running


@pytest.fixture
def page(job: Job, tmp_path: Path, corpus: Path) -> str:
    """The URL of the report of a job with some rejects."""
    table = pq.read_table(corpus / "1.parquet")
    changed: list[Any] = [None, " ", *texts(18, 22)]
    pq.write_table(table.set_column(1, "text", pa.array(changed)), corpus / "1.parquet")
    assert ended(job()).code == ExitCode.DONE
    return f"file://{tmp_path}/out/report.html"


@pytest.mark.parametrize(("width", "dark"), [(1100, False), (1100, True), (390, False), (360, True)])
def test_every_figure_is_drawn_and_fits(tab: Tab, page: str, width: int, dark: bool) -> None:
    tab.open(page, width, dark)
    for name, mark in FIGURES.items():
        assert tab.ask(SEEN.replace("MARK", mark))[name] > 0, name
    assert tab.ask(SEEN.replace("MARK", "circle"))["A map of the vectors"] == 58
    assert tab.ask("document.documentElement.scrollWidth") <= tab.ask("innerWidth") == width
    assert tab.ask(WIDER) == []
    assert tab.ask(CUT) == []
    ground = tab.ask("getComputedStyle(document.body).backgroundColor")
    assert ground == ("rgb(18, 22, 27)" if dark else "rgb(255, 255, 255)")


def test_the_page_asks_for_nothing_and_has_nothing_to_complain_of(tab: Tab, page: str) -> None:
    tab.requests.clear()
    tab.complaints.clear()
    tab.open(page)
    tab.ask("new Promise(done => setTimeout(done, 500))")
    assert {url for url in tab.requests if not url.startswith("data:")} == {page}
    assert tab.complaints == []
    # If it tried to load something, the policy would refuse.
    tab.ask("fetch('https://example.com/').catch(() => 0)")
    assert any("Content Security Policy" in complaint for complaint in tab.complaints)


MIDDLE = """
new Promise(done => {
  const each = document.querySelector("WHICH");
  each.scrollIntoView({block: "center"});
  requestAnimationFrame(() => requestAnimationFrame(() => {
    const box = each.getBoundingClientRect();
    done([box.left + box.width / 2, box.top + box.height / 2]);
  }));
})
"""


TALLEST = """
[...document.querySelector("rect.mark").closest("svg").querySelectorAll("rect.mark")]
    .sort((one, other) => other.height.baseVal.value - one.height.baseVal.value)[0].id = "tallest"
"""
"""Names the tallest bar of the first chart, which is that of throughput."""


def middle(tab: Tab, which: str) -> tuple[float, float]:
    """Returns the middle of an element, after scrolling to it until the page has noticed."""
    x, y = tab.ask(MIDDLE.replace("WHICH", which))
    return x, y


def test_who_points_at_a_dot_reads_its_text(tab: Tab, page: str) -> None:
    tab.open(page)
    assert tab.ask("document.getElementById('tip').hidden")
    tab.point(*middle(tab, "circle"))
    told = tab.ask("[...document.getElementById('tip').children].map(each => each.innerText)")
    lit = tab.ask("[...document.querySelectorAll('.lit')].map(each => ({...each.dataset}))")
    assert [told[0]] == [each["told"] for each in lit]
    assert lit[0]["place"] in told[1]
    tab.ask(TALLEST)  # the first one may be too low to be pointed at
    tab.point(*middle(tab, "#tallest"))
    assert "rows/s" in tab.ask("document.getElementById('tip').innerText")
    tab.point(*middle(tab, "h1"))
    assert tab.ask("document.getElementById('tip').hidden")


def test_the_legend_shows_one_colour_alone(tab: Tab, page: str) -> None:
    tab.open(page)
    dim = "[...document.querySelectorAll('.dots g.dim')].map(each => each.classList[0])"
    place = middle(tab, ".legend button")
    tab.point(*place, click=True)
    assert tab.ask(dim) == ["c1", "c2"]
    tab.point(*place, click=True)
    assert tab.ask(dim) == []


def test_hostile_texts_do_nothing_in_a_browser(tab: Tab, job: Job, tmp_path: Path, corpus: Path) -> None:
    ended(hostile(job, corpus))
    tab.complaints.clear()
    tab.open(f"file://{tmp_path}/out/report.html", 390)
    assert tab.ask("document.images.length") == 0
    assert tab.ask("document.scripts.length") == 1
    tab.point(*middle(tab, "circle"))
    assert HOSTILE.split("\u202e", maxsplit=1)[0] in tab.ask("document.getElementById('tip').innerText")
    assert tab.ask("document.images.length") == 0
    assert tab.complaints == []
    assert tab.ask("document.documentElement.scrollWidth") <= 390
