/** The client of SercueScribe for browsers and Node. It has no dependencies and needs no build step. */
export { Client } from "./client.js";
export { ScribeError } from "./errors.js";
export { Microphone } from "./microphone.js";
export { LivePlayer } from "./player.js";
export { IndexedDbQueue } from "./indexeddb.js";
export { FileQueue, MemoryQueue } from "./queue.js";
export { record, upload } from "./record.js";
export { Recorder } from "./recorder.js";
