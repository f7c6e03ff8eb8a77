"""The job as data: the YAML file as frozen models, how it is loaded, URLs and storage options.

The sections are in `sections`, a source in `source`, URLs and options in `location`; `load` reads a file.
"""
