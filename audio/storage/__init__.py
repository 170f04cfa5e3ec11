"""The storage of sessions: folders, locks, uploads and downloads."""
