"""Tests of `pipeline.model.bert`."""
