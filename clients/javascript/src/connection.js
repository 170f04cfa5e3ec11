import { ScribeError } from "./errors.js";

export const CHUNK_STORED = "Chunk processed successfully";
/** Without an answer for so long, the network has lost the connection, and nobody has told the browser. */
const PATIENCE_SECONDS = 15;
const PING_SECONDS = 20;
const TICK_MS = 1000;

/**
 * One WebSocket. It knows which message each answer answers, and notices a connection that is dead.
 *
 * `owner` has the methods `greeted(greeting)`, `answered(item, answer)`, `rejected(item, error)` and
 * `closed(code, error)`, where `item` is what was given to `send`, and null for a rejection of the whole connection.
 */
export class Connection {
  #socket;
  #owner;
  #expected = []; // what the next answers answer, oldest first
  #error = null; // the last error that the server told
  #heardAt = performance.now();
  #timer;

  constructor(url, token, owner) {
    this.isGreeted = false;
    this.#owner = owner;
    // A browser can set no header on a WebSocket, so the token is a subprotocol.
    this.#socket = token ? new WebSocket(url, ["bearer", token]) : new WebSocket(url);
    this.#socket.onmessage = ({ data }) => this.#receive(JSON.parse(data));
    this.#socket.onclose = ({ code }) => this.#end(code);
    this.#timer = setInterval(() => this.#watch(), TICK_MS);
  }

  /** Send a chunk, or the JSON of a message. `item` is given back with the answer. */
  send(data, item) {
    if (!this.#expected.length) this.#heardAt = performance.now();
    this.#expected.push(item);
    this.#socket.send(data);
  }

  control(action) {
    this.send(JSON.stringify({ type: "control", action }), { action });
  }

  /** End the connection. Nothing more is told of it. */
  drop() {
    clearInterval(this.#timer);
    this.#socket.onmessage = this.#socket.onclose = null;
    this.#socket.close();
  }

  /** Ask for an answer soon, because the network may have changed. */
  check() {
    if (this.isGreeted && !this.#expected.length) this.control("ping");
  }

  #receive(answer) {
    this.#heardAt = performance.now();
    if (answer.error) this.#reject(answer);
    else if (!this.isGreeted) {
      this.isGreeted = true;
      this.#owner.greeted(answer);
    } else if (answer.event !== "error") {
      const item = this.#isUnsolicited(answer) ? null : this.#expected.shift();
      this.#owner.answered(item, answer);
    }
  }

  /** A session that is closed elsewhere is told of in between. */
  #isUnsolicited({ message }) {
    return message === "Session closed successfully" && this.#expected[0]?.action !== "close_session";
  }

  #reject({ error, code, ...details }) {
    this.#error = new ScribeError(code, error, details);
    const isForMessage = this.isGreeted && !this.#error.retryable && this.#expected.length;
    this.#owner.rejected(isForMessage ? this.#expected.shift() : null, this.#error);
  }

  #watch() {
    const silentSeconds = (performance.now() - this.#heardAt) / 1000;
    const isWaiting = !this.isGreeted || this.#expected.length > 0;
    if (isWaiting && silentSeconds > PATIENCE_SECONDS) this.#end(1006);
    else if (!isWaiting && silentSeconds > PING_SECONDS) this.control("ping");
  }

  #end(code) {
    this.drop();
    this.#owner.closed(code, this.#error);
  }
}

