"""Turns sources and config into splits, before anything starts.

A *source* has files. A survey finds the *spans* of each file, and `cut` turns them into *ranges*. A *piece*
is a range of a file in a *split*. Splits that can only be read together form a *scan*. docs/glossary.md
defines the other terms.
"""
