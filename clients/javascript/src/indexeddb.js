import { Recorder } from "./recorder.js";
import { uniqueName } from "./queue.js";
import { bytesPerSecond, wavHeader } from "./pcm.js";

const VERSION = 1;

/** Chunks in IndexedDB. They survive a reload, a crash, and the end of the browser. */
export class IndexedDbQueue {
  #database;

  constructor({ name = "sercuescribe" } = {}) {
    this.#database = new Database(name);
  }

  /** Whether this browser has IndexedDB, and Web Locks, by which pages know what an open page is recording. */
  static isSupported() {
    return Boolean(globalThis.indexedDB && globalThis.navigator?.locks);
  }

  async begin(details) {
    const id = uniqueName();
    const release = await acquire(this.#database.lockOf(id));
    const row = { ...details, id, part: 1, startedAt: new Date() };
    await this.#database.run(["recordings"], "readwrite", (recordings) => recordings.put(row));
    return new Stored(this.#database, row, [], release);
  }

  /**
   * Return what closed pages have left behind, oldest first. `onChange` is called once, when a page that records now has
   * ended its recording or was closed.
   */
  async leftovers({ onChange, signal } = {}) {
    const [rows, entries] = await Promise.all([
      this.#database.run(["recordings"], "readonly", (recordings) => recordings.getAll()),
      this.#database.run(["entries"], "readonly", (store) => store.getAll()),
    ]);
    const { held } = await navigator.locks.query();
    const names = new Set(held.map(({ name }) => name));
    const isHeld = ({ id }) => names.has(this.#database.lockOf(id));
    if (onChange) this.#watch(rows.filter(isHeld), onChange, signal);
    return rows
      .filter((row) => !isHeld(row))
      .sort((one, other) => one.startedAt - other.startedAt)
      .map((row) => new Leftover(this, this.#database, row, entries.filter(({ id }) => id === row.id)));
  }

  /** Call `onChange` when one of the locks is free. Those that are free by now are granted at once. */
  #watch(rows, onChange, signal) {
    const others = new AbortController();
    signal?.addEventListener("abort", () => others.abort(), { once: true });
    const freed = () => {
      if (others.signal.aborted) return;
      others.abort();
      onChange();
    };
    for (const { id } of rows)
      navigator.locks.request(this.#database.lockOf(id), { signal: others.signal }, freed).catch(() => undefined);
  }

  /** Take over what a closed page has left behind. What is added now is a new part. */
  async reopen(id, changes = {}) {
    const release = await acquire(this.#database.lockOf(id));
    const row = await this.#database.run(["recordings"], "readonly", (recordings) => recordings.get(id));
    if (!row) {
      release();
      throw new DOMException("Another page has uploaded or deleted this recording.", "NotFoundError");
    }
    const entries = await this.#database.entriesOf(id);
    const stored = new Stored(this.#database, { ...row, part: row.part + 1 }, entries, release);
    await stored.update(changes);
    return stored;
  }
}

/** What IndexedDB holds of one recording, for the page that has its lock. */
class Stored {
  #database;
  #row;
  #release;

  constructor(database, row, entries, release) {
    this.#database = database;
    this.#row = row;
    this.entries = entries;
    this.#release = release;
  }

  get id() {
    return this.#row.id;
  }

  get details() {
    return this.#row;
  }

  get part() {
    return this.#row.part;
  }

  async add({ part, position, index, size_bytes, label }, data) {
    const key = [this.id, part, position];
    const entry = { id: this.id, part, position, index, size_bytes, label };
    await this.#database.run(["entries", "data"], "readwrite", (entries, contents) => {
      if (data !== null) contents.put(data, key);
      return entries.put(entry);
    });
  }

  read({ part, position }) {
    return this.#database.run(["data"], "readonly", (contents) => contents.get([this.id, part, position]));
  }

  async remove({ part, position }) {
    // An earlier part is complete when a later one is acknowledged.
    const range = IDBKeyRange.bound([this.id], [this.id, part, position]);
    await this.#database.run(["entries", "data"], "readwrite", (entries, contents) => {
      contents.delete(range);
      return entries.delete(range);
    });
  }

  async update(changes) {
    Object.assign(this.#row, changes);
    await this.#database.run(["recordings"], "readwrite", (recordings) => recordings.put(this.#row));
  }

  async discard() {
    await this.#database.forget(this.id);
    this.release();
  }

  release() {
    this.#release();
  }
}

/** What a closed page could not upload. */
class Leftover {
  #queue;
  #database;
  #row;
  #entries;

  constructor(queue, database, row, entries) {
    this.#queue = queue;
    this.#database = database;
    this.#row = row;
    this.#entries = entries.filter(({ index }) => index !== null);
    this.id = row.id;
    this.server = row.server;
    this.sessionId = row.sessionId;
    this.parameters = row.parameters;
    this.startedAt = row.startedAt;
    this.pendingChunks = this.#entries.length;
    this.pendingBytes = this.#entries.reduce((sum, { size_bytes }) => sum + size_bytes, 0);
    const rate = bytesPerSecond(row.parameters);
    this.pendingSeconds = rate && this.pendingBytes / rate;
  }

  resume(options = {}) {
    const { parameters, server, source } = this.#row;
    const changes = options.sessionId ? { sessionId: options.sessionId, isOwn: false, moved: true } : {};
    const queue = { begin: () => this.#queue.reopen(this.id, changes) };
    const { sessionId, ...others } = options;
    return new Recorder({ ...others, server, parameters, source, queue });
  }

  async upload(options = {}) {
    const recorder = this.resume(options);
    options.signal?.addEventListener("abort", () => recorder.abort(), { once: true });
    return recorder.close();
  }

  async blob() {
    const entries = await this.#database.entriesOf(this.id);
    const chunks = entries.filter(({ index }) => index !== null);
    const read = ({ part, position }) =>
      this.#database.run(["data"], "readonly", (contents) => contents.get([this.id, part, position]));
    const contents = await Promise.all(chunks.map(read));
    const sizeBytes = chunks.reduce((sum, { size_bytes }) => sum + size_bytes, 0);
    if (bytesPerSecond(this.parameters))
      return new Blob([wavHeader(this.parameters, sizeBytes), ...contents], { type: "audio/wav" });
    return new Blob(contents, { type: `audio/${this.parameters.format ?? "x-unknown"}` });
  }

  async discard() {
    const release = await acquire(this.#database.lockOf(this.id));
    await this.#database.forget(this.id);
    release();
  }
}

/** The database, opened when it is first needed. */
class Database {
  #name;
  #opened = null;

  constructor(name) {
    this.#name = name;
  }

  lockOf(id) {
    return `${this.#name}:${id}`;
  }

  entriesOf(id) {
    const range = IDBKeyRange.bound([id], [id, []]);
    return this.run(["entries"], "readonly", (entries) => entries.getAll(range));
  }

  async forget(id) {
    const range = IDBKeyRange.bound([id], [id, []]);
    await this.run(["recordings", "entries", "data"], "readwrite", (recordings, entries, contents) => {
      entries.delete(range);
      contents.delete(range);
      return recordings.delete(id);
    });
  }

  /** Return the result of the request that `work` makes, once its transaction is complete. */
  async run(stores, mode, work) {
    this.#opened ??= this.#open();
    const database = await this.#opened;
    return new Promise((resolve, reject) => {
      const transaction = database.transaction(stores, mode);
      const request = work(...stores.map((name) => transaction.objectStore(name)));
      transaction.oncomplete = () => resolve(request.result);
      transaction.onabort = () => reject(transaction.error ?? request.error);
    });
  }

  #open() {
    return new Promise((resolve, reject) => {
      const request = indexedDB.open(this.#name, VERSION);
      request.onupgradeneeded = () => {
        request.result.createObjectStore("recordings", { keyPath: "id" });
        request.result.createObjectStore("entries", { keyPath: ["id", "part", "position"] });
        request.result.createObjectStore("data");
      };
      request.onsuccess = () => {
        const forget = () => {
          request.result.close();
          this.#opened = null;
        };
        Object.assign(request.result, { onclose: forget, onversionchange: forget });
        resolve(request.result);
      };
      request.onerror = () => {
        this.#opened = null;
        reject(request.error);
      };
    });
  }
}

/** Wait for a lock, and return the function that releases it. The browser does so too when the page ends. */
function acquire(name) {
  return new Promise((resolve, reject) => {
    navigator.locks.request(name, () => new Promise((release) => resolve(release))).catch(reject);
  });
}
