"""Stands before a package that comes with a tool of releases, and makes its import fail.

Whatever imports Ray imports jsonschema, which takes this package along where it is there: 38 grammars, made
anew in each process, for a check that nobody asks for. They are four fifths of the time that Ray takes to
import, and each Ray of a test imports it in ten processes. jsonschema goes without, and so does an
installation that is no developer's.
"""

raise ImportError("tests go without it")
