"""From a session's chunks to its recording: lock, concatenate, finish, store."""
