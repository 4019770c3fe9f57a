"""This computer: what it has that a pool needs, and how a child process is started on it."""
