"""Tests of `pipeline.model.fetch`."""
