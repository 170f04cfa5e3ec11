/*
 * Records live audio from a browser or from Node 22 or later. It has no dependencies.
 *
 *     const recorder = new Recorder("127.0.0.1:8000", { sample_rate: 16000 });
 *     recorder.send(chunk);                          // an ArrayBuffer, a view of one, or a Blob
 *     const { recording } = await recorder.close();  // recording.url
 *
 * It keeps each chunk until the server has acknowledged it. When the connection breaks, it connects again, drops the
 * chunks that the server has stored, and sends the rest.
 */

// A script can't tell a server that rejects the page from one that is not running. So the first connection is tried
// ten times, once a second. After the first success the recorder waits for the server without a limit.
const FIRST_ATTEMPTS = 10;

export class Recorder {
  /**
   * `server` is a URL, or "host:port". `parameters` are those of the session, such as {sample_rate: 48000} for raw
   * samples. `access` is what the application's back end gave to the page: `token`, and the `sessionId` of the session
   * that it created. `access.show` returns the JSON of the session; without it, the server is asked.
   */
  constructor(server, parameters = {}, access = {}) {
    this.server = server.includes("://") ? server : `http://${server}`;
    this.sessionId = access.sessionId;
    this.token = access.token;
    this.show = access.show ?? (() => this.fetchSession());
    this.query = new URLSearchParams({ source: "recorder", ...parameters });
    this.chunks = []; // not acknowledged yet, oldest first
    this.stored = 0; // chunks that the server has acknowledged, or counted in a greeting
    this.attempts = 0; // failed attempts before the first connection
    this.done = new Promise((resolve, reject) => Object.assign(this, { resolve, reject }));
    this.connect();
  }

  /** Send the next chunk, or keep it until there is a connection. */
  send(chunk) {
    if (!(chunk.size ?? chunk.byteLength)) return; // the server stores no empty messages
    this.chunks.push(chunk);
    if (this.greeted) this.socket.send(chunk);
  }

  /** Close the session. The promise resolves to the session's JSON once its recording is ready. */
  close() {
    this.closing = true;
    if (this.greeted) this.sendClose();
    return this.done;
  }

  connect() {
    const path = this.sessionId ? `/${this.sessionId}` : "";
    const url = `${this.server.replace(/^http/, "ws")}/api/ws/audio${path}?${this.query}`;
    // A browser can set no header on a WebSocket, so the token is a subprotocol.
    this.socket = this.token ? new WebSocket(url, ["bearer", this.token]) : new WebSocket(url);
    this.socket.onopen = () => (this.reached = true);
    this.socket.onmessage = ({ data }) => this.receive(JSON.parse(data));
    this.socket.onclose = ({ code }) => this.closed(code);
  }

  receive(answer) {
    if (answer.error) this.rejected(answer);
    else if (!this.greeted) this.resume(answer);
    else if (answer.message === "Chunk processed successfully") {
      this.chunks.shift();
      this.stored += 1;
    }
  }

  /** After the greeting, drop the chunks that the server has stored and send the rest. */
  resume(greeting) {
    this.sessionId = greeting.session_id;
    this.chunks.splice(0, greeting.source_chunk_count - this.stored);
    this.stored = greeting.source_chunk_count;
    this.greeted = true;
    for (const chunk of this.chunks) this.socket.send(chunk);
    if (this.closing) this.sendClose();
  }

  sendClose() {
    this.socket.send(JSON.stringify({ type: "control", action: "close_session" }));
  }

  rejected({ error, code, retryable }) {
    if (retryable) return; // the server closes the connection, and closed() connects again
    if (code === "session_closed" && this.closing) this.finish();
    else this.fail(new Error(`${error} (${code})`));
  }

  closed(code) {
    this.greeted = false;
    if (this.ended) return;
    if (code === 1000) this.finish();
    else if (code === 1009) this.fail(new Error("a chunk is larger than the server allows"));
    else if (!this.reached && ++this.attempts === FIRST_ATTEMPTS)
      this.fail(
        new Error(
          `${this.server} is not running, or it rejects this page: check its ALLOWED_ORIGINS and ALLOWED_HOSTS`,
        ),
      );
    else setTimeout(() => this.connect(), 1000);
  }

  fail(error) {
    this.ended = true;
    this.reject(error);
    this.socket.close();
  }

  async finish() {
    this.ended = true;
    const wanted = this.stored + this.chunks.length;
    try {
      for (;;) {
        const session = await this.show();
        const { state, error } = session.recording;
        if (session.total_chunks < wanted) throw new Error("the session was closed before all chunks were sent");
        if (state === "failed") throw new Error(error.detail);
        if (state === "ready" || !wanted) return this.resolve(session);
        await new Promise((resume) => setTimeout(resume, 200));
      }
    } catch (error) {
      this.reject(error);
    }
  }

  async fetchSession() {
    const headers = this.token ? { Authorization: `Bearer ${this.token}` } : {};
    const response = await fetch(`${this.server}/api/audio/sessions/${this.sessionId}`, { headers });
    return response.json();
  }
}
