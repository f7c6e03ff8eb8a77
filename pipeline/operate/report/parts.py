"""Builds the parts of the page's sections: headings, sentences, tables."""

from collections.abc import Sequence

from markupsafe import Markup

from pipeline.humanize import count
from pipeline.operate.report.markup import element, join

NOTHING = Markup("")
"""The content of a section that has nothing to show."""
NOT_KNOWN = "\N{EN DASH}"
MAX_LINES = 50
"""Rows of a table that are shown; the others are counted."""
LONGEST_PLACE = 80
LONGEST_REASON = 300


def section(title: str, sentence: str, *content: Markup) -> Markup:
    """Builds a section: a heading, an explanation of a sentence or two, and the content."""
    about = element("p", sentence, class_="about") if sentence else NOTHING
    return element("section", element("h2", title), about, *content)


def table(heads: Sequence[str], rows: Sequence[Sequence[object]], numbers: Sequence[str] = ()) -> Markup:
    """Builds a table. Each cell has its head, to show it on a phone, where a row becomes a block.

    Args:
        numbers: heads of the columns that hold numbers.
    """
    kinds = ["n" if head in numbers else None for head in heads]
    cells = [element("th", head, scope="col", class_=kind) for head, kind in zip(heads, kinds, strict=True)]
    lines = [
        element(
            "tr",
            *(
                element("td", value, class_=kind, data_head=head)
                for value, kind, head in zip(row, kinds, heads, strict=True)
            ),
        )
        for row in rows[:MAX_LINES]
    ]
    more = len(rows) - MAX_LINES
    whole = element("table", element("thead", element("tr", *cells)), element("tbody", *lines))
    return join(whole, element("p", f"and {count(more)} more", class_="about") if more > 0 else NOTHING)
