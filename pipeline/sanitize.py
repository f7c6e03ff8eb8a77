"""Removes secrets and control characters from foreign texts: none may control a terminal or forge a line.

File names, texts of errors, URLs, keys and values of a config, contents of a dataset's files: all of these
may contain anything. They pass through `printable` before they reach a terminal or a log.

Secrets are found by their place, since they look like any name: before the `@` of a URL, in a URL's query,
or behind the name of a parameter or header that holds one.
"""

import re

LONGEST = 500
LOST = "\ufffd"
"""Stands for a character that is not shown."""
MASK = "***"


def printable(text: str, longest: int = LONGEST) -> str:
    """Returns a text on one line, and not too long."""
    shown = strip_control(redact(text[: 16 * longest]))  # the rest may be as long as a file
    return shown if len(shown) <= longest else f"{shown[:longest]}…"


def strip_control(text: str, keep: str = "", instead: str = LOST) -> str:
    """Replaces what could control a terminal: control characters, escapes, line breaks, writing directions.

    Args:
        keep: the characters that stay nevertheless.
        instead: the replacement of each of the others.
    """
    if text.isprintable():
        return text
    return "".join(each if each.isprintable() or each in keep else instead for each in text)


def first_line(text: str, longest: int = LONGEST) -> str:
    """Returns the first line of a text, as `printable` shows it; empty for a blank text."""
    return printable(next(iter(text.strip().splitlines()), ""), longest)


def block(text: str) -> str:
    """Indents a text of several lines, such as a traceback, so that none looks like a line of ours."""
    return "\n".join(f"  {line}" for line in strip_control(redact(text), "\n\t").splitlines())


def redact(text: str) -> str:
    """Masks the secrets of URLs, parameters and headers in a text."""
    if "@" in text and ":/" in text:
        text = _WEB_USER.sub(rf"\1{MASK}@", _USER.sub(rf"\1{MASK}@", text))
    if "://" in text:
        text = _QUERY.sub(rf"\1{MASK}", text)
    return _NAMED.sub(rf"\1{MASK}", text)


def holds_secret(url: str) -> bool:
    """Tells whether a URL, of any characters, names a user or holds a signature."""
    return bool(_URL_OF_USER.match(url) or _NAMED.search(url))


_WEB = r"\bhttps?:/+"
_OTHERS = r"(?:\b(?!file:|https?:)[a-z][a-z0-9+.-]*://|\b(?:s3a?|gs|abfss?|hf):/+)"
# An @ before the first slash ends a user's name. An @ behind that slash does so if a colon stands before the
# slash, since secrets may hold slashes; the colon of an ARN or a port does not count. Any other @ is legal in
# the name of an object.
_USER = re.compile(rf"""({_OTHERS})(?:(?!arn:)[^\s/@:'"]*:[^\s'"]*@|[^\s/'"]*@)""", re.I)
_WEB_USER = re.compile(rf"""({_WEB})(?:[^\s/@:'"]*:(?!\d+/)[^\s'"]*@|[^\s/'"]*@)""", re.I)
_URL_OF_USER = re.compile(rf"(?:[\w+.-]+::)*(?:{_WEB}|{_OTHERS})(?:(?!arn:)[^/@:]*:.*@|[^/]*@)", re.I | re.S)
_QUERY = re.compile(r"""(\bhttps?://[^\s'"?#<>]*[?#])[^\s'"<>]+""", re.I)
_NAMED = re.compile(
    r"""((?:signature|credential|security-token)="""
    r"""|[?&](?:sig|[\w-]*accessid|[\w-]*keyid|[\w-]*token|[\w-]*key|[\w-]*secret|passw\w*)="""
    r"""|\bbearer\s+|\bauthorization["']?\s*[:=]\s*["']?(?:basic\s+|bearer\s+)?)"""
    r"""[^&\s'",]+""",
    re.I,
)
