"""Assembles the page: one file that contacts no server, and runs no foreign content.

Styles and script are inline, and the content security policy has their hashes; nothing else may run, load or
be sent. The script only shows the texts of the charts' marks; without it nothing else is missing.
"""

import base64
import datetime
from hashlib import sha256
from pathlib import Path

from markupsafe import Markup

import pipeline
from pipeline.operate.report import account, excerpts, measures
from pipeline.operate.report.markup import element, join
from pipeline.operate.report.subject import Subject

_FOLDER = Path(__file__).parent
STYLE, SCRIPT = ((_FOLDER / name).read_text(encoding="utf-8") for name in ("page.css", "page.js"))


def page(subject: Subject, now: datetime.datetime) -> bytes:
    """Returns the report as one HTML file in UTF-8."""
    body = join(
        account.headline(subject),
        account.reconciliation(subject),
        measures.over_time(subject),
        element("div", measures.stages(subject), measures.work(subject), class_="pair"),
        measures.lengths(subject),
        measures.shards(subject),
        measures.origins(subject),
        measures.labels(subject),
        excerpts.rejects(subject),
        excerpts.map_(subject),
        account.attempts(subject),
        account.made_with(subject),
        element("footer", f"albert-embed {pipeline.__version__} · {now:%Y-%m-%d %H:%M} UTC"),
    )
    title = f"{subject.dataset.layout.root.rpartition('/')[2]}: embedding report"
    return _document(title, element("main", body)).encode()


def _document(title: str, body: Markup) -> Markup:
    return join(
        Markup('<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'),
        Markup(f'<meta http-equiv="Content-Security-Policy" content="{_policy()}">'),
        Markup('<meta name="viewport" content="width=device-width, initial-scale=1">'),
        Markup('<meta name="color-scheme" content="light dark"><meta name="referrer" content="no-referrer">'),
        Markup('<link rel="icon" href="data:,">'),
        element("title", title),
        element("style", Markup(STYLE)),
        Markup("</head><body>"),
        body,
        Markup('<div id="tip" role="status" hidden><p></p><p></p></div>'),
        element("script", Markup(SCRIPT)),
        Markup("</body></html>\n"),
    )


def _policy() -> Markup:
    """Returns a policy by which nothing may load or run except our own style and script, unchanged."""
    rules = (
        "default-src 'none'",
        f"style-src '{_hash(STYLE)}'",
        f"script-src '{_hash(SCRIPT)}'",
        "img-src data:",
        "base-uri 'none'",
        "form-action 'none'",
    )
    return Markup("; ".join(rules))


def _hash(content: str) -> str:
    return f"sha256-{base64.b64encode(sha256(content.encode()).digest()).decode()}"
