"""The processing of audio: pure modules that plan and parse, and modules that run FFmpeg and pydub."""
