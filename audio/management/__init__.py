"""Management commands, and the processes that they run."""
