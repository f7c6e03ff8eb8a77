"""HTML and SVG that is escaped by construction: what is not `Markup` is text, and escaped when put in."""

import re

from markupsafe import Markup, escape


def markup(value: object) -> Markup:
    """A value as markup; text without what can't be shown."""
    return value if isinstance(value, Markup) else escape(_UNSHOWN.sub("\ufffd", str(value)))


def element(name: str, *content: object, **attributes: object) -> Markup:
    """One element; attributes that are None are left out; `class_` is `class`, `aria_label` `aria-label`."""
    given = "".join(
        f' {key.rstrip("_").replace("_", "-")}="{markup(value)}"'
        for key, value in attributes.items()
        if value is not None
    )
    return Markup(f"<{name}{given}>{join(*content)}</{name}>")


def join(*content: object) -> Markup:
    """One thing after the other."""
    return Markup("".join(map(markup, content)))


def beginning(text: str, width: int) -> str:
    """The start of a text, on one line."""
    line = " ".join(text[: 4 * width].split())
    return line if len(line) <= width and len(text) <= 4 * width else line[: width - 1].rstrip() + "…"


def end(text: str, width: int) -> str:
    """The end of a path, where its name is."""
    return text if len(text) <= width else "…" + text[1 - width :]


_UNSHOWN = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff\u202a-\u202e\u2066-\u2069\ufffe\uffff]")
"""Controls, half surrogates, and what turns the direction of writing for all that follows."""
