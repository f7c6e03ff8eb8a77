"""Builds HTML and SVG that is escaped by construction: what is not `Markup` is text, and gets escaped."""

import re

from markupsafe import Markup, escape


def markup(value: object) -> Markup:
    """Returns a value as markup; replaces characters of texts that can't be shown."""
    return value if isinstance(value, Markup) else escape(_UNSHOWN.sub("\ufffd", str(value)))


def element(name: str, *content: object, **attributes: object) -> Markup:
    """Builds an element without attributes that are None; `class_` is `class`, `aria_label` `aria-label`."""
    given = "".join(
        f' {key.rstrip("_").replace("_", "-")}="{markup(value)}"'
        for key, value in attributes.items()
        if value is not None
    )
    return Markup(f"<{name}{given}>{join(*content)}</{name}>")


def join(*content: object) -> Markup:
    """Joins contents, one after the other."""
    return Markup("".join(map(markup, content)))


def beginning(text: str, width: int) -> str:
    """Returns the start of a text, on one line."""
    line = " ".join(text[: 4 * width].split())
    return line if len(line) <= width and len(text) <= 4 * width else line[: width - 1].rstrip() + "…"


def end(text: str, width: int) -> str:
    """Returns the end of a path, where its name is."""
    return text if len(text) <= width else "…" + text[1 - width :]


_UNSHOWN = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff\u202a-\u202e\u2066-\u2069\ufffe\uffff]")
"""Control characters, lone surrogates, and characters that change the direction of writing."""
