"""The caller's threads: jobs in, outcomes out."""
