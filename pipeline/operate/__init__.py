"""Shows a person a job and its dataset: status, progress, the report, search."""
