/** Queues in memory and of files. The one in IndexedDB is in indexeddb.js. */

/** Return a name that nobody else has. `crypto.randomUUID` is missing where a page came without TLS. */
export function uniqueName() {
  const bytes = crypto.getRandomValues(new Uint8Array(16));
  return Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join("");
}

/** Chunks in memory. They are lost with the page. */
export class MemoryQueue {
  async begin(details) {
    return new InMemory(details);
  }
}

class InMemory {
  #data = new Map();

  constructor(details) {
    this.id = uniqueName();
    this.details = { ...details };
    this.entries = [];
    this.part = 1;
  }

  async add(entry, data) {
    this.#data.set(entry.position, data);
  }

  async read(entry) {
    return this.#data.get(entry.position);
  }

  async remove(entry) {
    for (const position of this.#data.keys()) {
      if (position > entry.position) break;
      this.#data.delete(position);
    }
  }

  async update(changes) {
    Object.assign(this.details, changes);
  }

  async discard() {
    this.#data.clear();
  }

  release() {}
}

const FILE_CHUNK_BYTES = 256 * 1024;

/** The chunks of a file, which is read as it is sent. */
export class FileQueue {
  #file;
  #chunkSizeBytes;

  constructor(file, { chunkSizeBytes = FILE_CHUNK_BYTES } = {}) {
    this.#file = file;
    this.#chunkSizeBytes = chunkSizeBytes;
  }

  async begin(details) {
    return new InFile(this.#file, this.#chunkSizeBytes, details);
  }
}

class InFile {
  #file;
  #chunkSizeBytes;

  constructor(file, chunkSizeBytes, details) {
    this.#file = file;
    this.#chunkSizeBytes = chunkSizeBytes;
    this.id = uniqueName();
    this.details = { ...details };
    this.part = 1;
    this.entries = Array.from({ length: Math.ceil(file.size / chunkSizeBytes) }, (_, number) => ({
      part: 1,
      position: number + 1,
      index: number + 1,
      size_bytes: Math.min(chunkSizeBytes, file.size - number * chunkSizeBytes),
    }));
  }

  async add() {
    throw new TypeError("The chunks of a file are those of the file. Use another queue to send more.");
  }

  read({ index }) {
    const start = (index - 1) * this.#chunkSizeBytes;
    return this.#file.slice(start, start + this.#chunkSizeBytes).arrayBuffer();
  }

  async remove() {}

  async update(changes) {
    Object.assign(this.details, changes);
  }

  async discard() {}

  release() {}
}
