/** What raw PCM is: its rate in bytes, and the header that makes it a WAV file. */

const SAMPLE_BYTES = { s16le: 2, s24le: 3, s32le: 4, f32le: 4, mulaw: 1, alaw: 1 };
const WAV_TAGS = { f32le: 3, alaw: 6, mulaw: 7 };
const HEADER_BYTES = 44;

/** Whether the parameters describe raw PCM, which can be cut anywhere and continued in another session. */
export function isPcm({ format = "wav", encoding, sample_rate } = {}) {
  return format === "wav" && encoding !== undefined && sample_rate !== undefined;
}

/** Return the bytes in a second of raw PCM; null for anything else. */
export function bytesPerSecond(parameters) {
  if (!isPcm(parameters)) return null;
  return SAMPLE_BYTES[parameters.encoding] * parameters.sample_rate * (parameters.channels ?? 1);
}

/** Return the header of a WAV file. */
export function wavHeader(parameters, sizeBytes) {
  const { encoding, sample_rate: rateHz, channels = 1 } = parameters;
  const sampleBytes = SAMPLE_BYTES[encoding];
  const view = new DataView(new ArrayBuffer(HEADER_BYTES));
  const text = (at, letters) => [...letters].forEach((letter, i) => view.setUint8(at + i, letter.charCodeAt(0)));
  text(0, "RIFF");
  view.setUint32(4, HEADER_BYTES - 8 + sizeBytes, true);
  text(8, "WAVEfmt ");
  view.setUint32(16, 16, true);
  view.setUint16(20, WAV_TAGS[encoding] ?? 1, true);
  view.setUint16(22, channels, true);
  view.setUint32(24, rateHz, true);
  view.setUint32(28, sampleBytes * rateHz * channels, true);
  view.setUint16(32, sampleBytes * channels, true);
  view.setUint16(34, 8 * sampleBytes, true);
  text(36, "data");
  view.setUint32(40, sizeBytes, true);
  return view.buffer;
}
