"""PURE. From chunks to windows, and from windows to FFmpeg arguments."""
