"""What a person looks at while or after a job runs: status, progress, the report, search."""
