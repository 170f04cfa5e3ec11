"""From a session's chunks to its recording: claim, concatenate, finish, compare."""
