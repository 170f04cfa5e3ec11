/*
 * Record a file of raw 16-bit samples (16 kHz, mono) in chunks of 100 ms, at the pace of live audio.
 *
 *     node pcm.mjs SOUND.pcm [HOST:PORT]
 *
 * If SERCUESCRIBE_API_KEY is set, the key is sent. It needs the scopes `record` and `read`.
 */

import { readFileSync } from "node:fs";
import { setTimeout } from "node:timers/promises";
import { Recorder } from "./recorder.mjs";

const [path, server = "127.0.0.1:8000"] = process.argv.slice(2);
const token = process.env.SERCUESCRIBE_API_KEY;
const recorder = new Recorder(server, { sample_rate: 16000, channels: 1, encoding: "s16le" }, { token });
const samples = readFileSync(path);
for (let at = 0; at < samples.length; at += 3200) {
  recorder.send(samples.subarray(at, at + 3200));
  await setTimeout(100);
}
const { recording } = await recorder.close();
console.log(recording.url);
