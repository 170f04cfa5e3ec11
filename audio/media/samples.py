"""PURE. Samples of audio, and their format."""

from dataclasses import dataclass

SAMPLE_BYTES = {
    "u8": 1,
    "s16le": 2,
    "s24le": 3,
    "s32le": 4,
    "f32le": 4,
    "f64le": 8,
    "mulaw": 1,
    "alaw": 1,
}
MAX_CHANNELS = 8
RATE_RANGE_HZ = (4000, 384000)


@dataclass(frozen=True, slots=True)
class PcmFormat:
    """The format of samples.

    Attributes:
        encoding: A key of SAMPLE_BYTES.
        sample_rate: The sample rate in Hz.
        channels: The number of channels.
    """

    encoding: str
    sample_rate: int
    channels: int

    @property
    def frame_bytes(self) -> int:
        """The size of a sample frame, which has one sample of each channel."""
        return SAMPLE_BYTES[self.encoding] * self.channels


@dataclass(frozen=True, slots=True)
class Samples:
    """Whole sample frames, interleaved."""

    format: PcmFormat
    data: bytes


def is_recordable(channels: int, rate_hz: int) -> bool:
    """Whether the server records samples with this many channels at this rate: 1 to 8 at 4 to 384 kHz."""
    return 1 <= channels <= MAX_CHANNELS and RATE_RANGE_HZ[0] <= rate_hz <= RATE_RANGE_HZ[1]
