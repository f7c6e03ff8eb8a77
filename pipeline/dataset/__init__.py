"""What is on storage: layout, identity, shard records, ledger, writer, commit."""
