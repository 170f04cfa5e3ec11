/*
 * Record a file of raw 16-bit samples (16 kHz, mono) in chunks of 100 ms, at the pace of live audio.
 *
 *     node pcm.mjs SOUND.pcm [HOST:PORT]
 *
 * If SERCUESCRIBE_API_KEY is set, the key is sent. It needs the scopes `record` and `read`.
 */

import { readFileSync } from "node:fs";
import { setTimeout } from "node:timers/promises";
// In a project of your own: import { Recorder } from "sercuescribe";
import { Recorder } from "../clients/javascript/src/sercuescribe.js";

const [path, server = "127.0.0.1:8000"] = process.argv.slice(2);
const parameters = { sample_rate: 16000, channels: 1, encoding: "s16le", format: "wav" };
const recorder = new Recorder({ server, token: process.env.SERCUESCRIBE_API_KEY, parameters });
// A recorder waits for its server for as long as it takes. A program for the command line tells its user.
recorder.addEventListener("warning", ({ detail }) => {
  if (detail.code !== "unreachable") return;
  console.error(detail.message);
  process.exit(1);
});
const samples = readFileSync(path);
for (let at = 0; at < samples.length; at += 3200) {
  await recorder.send(samples.subarray(at, at + 3200));
  await setTimeout(100);
}
const { recording } = await recorder.close();
console.log(recording.url);
