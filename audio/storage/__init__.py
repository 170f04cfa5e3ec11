"""Where the bytes of a session are: folders, locks, uploads and downloads."""
