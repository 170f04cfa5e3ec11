"""The sound that the browser's microphone hears, and whether a recording is of it."""

from pathlib import Path

import numpy as np
import soxr

from tests.sound import decoded, speech

SOUND_HZ = 48000
# The browser hears it again and again. Each moment is unlike all others; what is above 4 kHz Opus keeps less exactly.
SOUND = soxr.resample(speech(10, 8000, 2, seed=7), 8000, SOUND_HZ)
WINDOW_FRAMES = SOUND_HZ // 2
CLEAR = 0.99


def clear_windows(path: Path, *input_options: str) -> int:
    """How many half-seconds of a recording, in two channels, are of the sound; wherever in the sound each was."""
    return sum(each > CLEAR for each in correlations(path, *input_options))


def correlations(path: Path, *input_options: str, channels: int = 2) -> list[float]:
    """How like the sound each half-second of a recording is, from 0 to 1; wherever in the sound it was."""
    samples = np.frombuffer(decoded(path, "s16le", *input_options, rate=SOUND_HZ), "<i2")
    heard = samples.reshape(-1, channels).astype(float).mean(axis=1)
    windows = [heard[at : at + WINDOW_FRAMES] for at in range(0, len(heard) - WINDOW_FRAMES + 1, WINDOW_FRAMES)]
    return [_best(window) for window in windows]


def _best(window: np.ndarray) -> float:
    """The highest normalised cross-correlation of a window with the sound, which goes round."""
    sound = SOUND.astype(float).mean(axis=1)
    spectrum = np.fft.rfft(sound)
    products = np.fft.irfft(spectrum * np.fft.rfft(window, len(sound)).conj(), len(sound))
    squares = np.cumsum(np.concatenate([[0.0], sound**2, sound[:WINDOW_FRAMES] ** 2]))
    energies = squares[WINDOW_FRAMES:-1] - squares[: -WINDOW_FRAMES - 1]
    return float((products / np.sqrt(energies * (window @ window) + 1e-9)).max())
