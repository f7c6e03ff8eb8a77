"""Datasets on storage: layout, identity, shard records, ledger, writer, commit."""
