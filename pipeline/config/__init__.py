"""The config of a job: the YAML file as frozen models, its loader, URLs and storage options.

`sections` has the sections, `source` a source, `location` URLs and options; `load` reads a file.
"""
