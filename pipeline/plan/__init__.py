"""Sources and config become splits, before anything starts.

A *source* has files. A survey gives the *spans* of each, and `cut` makes *ranges* of them. A *piece* is a
range of a file in a *split*. Splits that can only be read together are a *scan*. docs/glossary.md has the
other words.
"""
