"""Audio itself: what to do with chunks (pure), and FFmpeg, pydub and WAV files that do it."""
