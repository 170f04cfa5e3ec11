/*
 * Record a file of raw 16-bit samples (16 kHz, mono) in chunks of 100 ms, at the pace of live audio.
 *
 *     node pcm.mjs SOUND.pcm [HOST:PORT]
 */

import { readFileSync } from "node:fs";
import { setTimeout } from "node:timers/promises";
import { Recorder } from "./recorder.mjs";

const [path, server = "127.0.0.1:8000"] = process.argv.slice(2);
const recorder = new Recorder(server, { sample_rate: 16000, channels: 1, encoding: "s16le" });
const samples = readFileSync(path);
for (let at = 0; at < samples.length; at += 3200) {
  recorder.send(samples.subarray(at, at + 3200));
  await setTimeout(100);
}
const { recording } = await recorder.close();
console.log(recording.url);
