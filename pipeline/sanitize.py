"""What others wrote, before people see it: no secret, and nothing that steers a terminal or forges a line.

Names of files, texts of errors, URLs, keys and values of a config, what stands in a dataset's own files: all
of it may be anything. `printable` stands between it and every terminal and log.

Secrets are found by where they stand, since nothing tells one from a name: before the `@` of a URL, in the
query of one, behind the name of a parameter or header that carries one.
"""

import re

LONGEST = 500
LOST = "\ufffd"
"""Stands for a character that is not shown."""
MASK = "***"


def printable(text: str, longest: int = LONGEST) -> str:
    """A text on one line, and not too long."""
    shown = strip_control(redact(text[: 16 * longest]))  # what is cut off may be as long as a file
    return shown if len(shown) <= longest else f"{shown[:longest]}…"


def strip_control(text: str, keep: str = "", instead: str = LOST) -> str:
    """A text without what could steer a terminal: controls, escapes, breaks of lines, turns of direction.

    Args:
        keep: which of these stay.
        instead: stands for each of the others.
    """
    if text.isprintable():
        return text
    return "".join(each if each.isprintable() or each in keep else instead for each in text)


def first_line(text: str, longest: int = LONGEST) -> str:
    """Returns the first line of a text, as `printable` shows it; nothing of a blank text."""
    return printable(next(iter(text.strip().splitlines()), ""), longest)


def block(text: str) -> str:
    """A text of several lines, such as a traceback: none begins where a line of ours does."""
    return "\n".join(f"  {line}" for line in strip_control(redact(text), "\n\t").splitlines())


def redact(text: str) -> str:
    """A text without the secrets of URLs, parameters and headers in it."""
    if "@" in text and ":/" in text:
        text = _WEB_USER.sub(rf"\1{MASK}@", _USER.sub(rf"\1{MASK}@", text))
    if "://" in text:
        text = _QUERY.sub(rf"\1{MASK}", text)
    return _NAMED.sub(rf"\1{MASK}", text)


def holds_secret(url: str) -> bool:
    """Whether a whole URL, of any characters, names a user or holds a signature."""
    return bool(_URL_OF_USER.match(url) or _NAMED.search(url))


_WEB = r"\bhttps?:/+"
_OTHERS = r"(?:\b(?!file:|https?:)[a-z][a-z0-9+.-]*://|\b(?:s3a?|gs|abfss?|hf):/+)"
# An @ before the first slash ends a user's name. One behind it does so where a colon stands before that
# slash, since secrets hold slashes; but for the colon of an ARN or a port. Any other is legal in the name of
# an object.
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
