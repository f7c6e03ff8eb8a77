"""Tells the changes between two datasets: which rows one has added, updated and deleted since the other.

Shards that both datasets have are never opened, so the cost follows what changed. Of the other shards each
row becomes a fingerprint (`fingerprint`): digests of its id and of its content. Fingerprints are compared on
local disk, part by part (`compare`), and the rows that differ are written as files beside the shards
(`part`). `record` says which two datasets were compared, and what was found.

These are plain functions; `driver.changes` calls them, on Ray if there are many shards.
"""
