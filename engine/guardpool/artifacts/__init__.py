"""Compiled guards: compile once, in a process of its own, keep on disk, and load only what is ours and unchanged."""
