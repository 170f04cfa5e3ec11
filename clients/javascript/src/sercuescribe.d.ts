/** The types of the JavaScript client of SercueScribe. docs/javascript.md is the guide. */

// What the server sends. The names are those of the HTTP API.

export type SessionStatus = "active" | "paused" | "completed";
export type RecordingState = "empty" | "live" | "building" | "ready" | "failed";
export type Format = "wav" | "mp3" | "flac" | "aac" | "webm" | "ogg" | "mp4";
export type TargetFormat = "wav" | "mp3" | "flac" | "aac" | "m4a" | "opus";
export type Encoding = "s16le" | "s24le" | "s32le" | "f32le" | "mulaw" | "alaw";

export interface RecordingWarning {
  code: string;
  detail: string;
  first_sequence: number | null;
  last_sequence: number | null;
  start_seconds: number | null;
  end_seconds: number | null;
}

export interface Recording {
  state: RecordingState;
  /** Where to download it, or null while there is nothing to download. */
  url: string | null;
  format: Format;
  size_bytes: number;
  duration_seconds: number | null;
  sha256: string;
  /** From 0 to 1 while `state` is `building`. */
  progress: number;
  error: { detail: string; code: string; sequence: number | null } | null;
  sample_rate: number | null;
  channels: number | null;
  warnings: RecordingWarning[];
  partial_url: string | null;
}

export interface Session {
  session_id: string;
  user_id: string | null;
  start_time: string;
  status: SessionStatus;
  file_path: string | null;
  total_chunks: number;
  /** The length of the recording, or of what has been recorded so far; null if it is not known exactly. */
  duration_seconds: number | null;
  sample_rate: number;
  channels: number;
  format: Format;
  end_time: string | null;
  byte_count: number;
  connections: number;
  recording: Recording;
  recovered: "exact" | "uncertain" | "pending" | null;
  project: string;
  name: string | null;
  metadata: Record<string, string>;
  retention_days: number | null;
  legal_hold: boolean;
}

export interface CreatedSession extends Session {
  /** The address of the WebSocket, with a ticket that is valid for one minute and one use. */
  websocket_url: string;
}

export interface Marker {
  marker_id: string;
  label: string;
  position_seconds: number | null;
  sequence: number | null;
  created_at: string;
}

/** The lowest and the highest sample of each point, from -1 to 1. */
export interface Waveform {
  sample_rate: number;
  duration_seconds: number;
  start_seconds: number;
  end_seconds: number;
  minimum: number[];
  maximum: number[];
}

export interface ScribeEvent {
  /** The id of the event, which is also the `webhook-id`; null for `session.progress`, which is not repeated. */
  id: string | null;
  /** Where to go on listening: the option `lastEventId` of `events()`. */
  lastEventId: string | null;
  type: string;
  timestamp?: string;
  data: Record<string, any> & { session_id: string };
}

export interface Page<T> {
  results: T[];
  /** The cursor of the next page, or null on the last page. */
  next: string | null;
  previous: string | null;
}

/** Parameters of a session, as the server documents them for the WebSocket and for `POST /api/audio/sessions`. */
export interface SessionParameters {
  sample_rate?: number;
  channels?: 1 | 2;
  format?: Format;
  encoding?: Encoding;
  chunks?: "auto" | "stream" | "files";
  user_id?: string | null;
  name?: string | null;
  metadata?: Record<string, string>;
  project?: string;
}

/** Why something failed. The `code` is one of the server's error codes, or one of the client's (docs/javascript.md). */
export class ScribeError extends Error {
  constructor(code: string, message: string, details?: Record<string, unknown>);
  readonly code: string;
  /** The HTTP status, if a response had one. */
  readonly status: number | undefined;
  readonly retryable: boolean;
  readonly retryAfterSeconds: number | undefined;
  /** The keys of the server's error, such as `valid_values` and `limit`. */
  readonly details: Record<string, unknown>;
}

/** An API key (not in a browser), a session token, or a function that returns a token whenever one is needed. */
export type Token = string | (() => string | Promise<string>);

export interface ClientOptions {
  /** The URL of the server. The default in a browser is the server that the module was loaded from. */
  server?: string | URL;
  /** Without a token, a page of the server itself is known by its login. */
  token?: Token;
  /** More headers for each request, such as `X-CSRFToken` for a page of the server itself. */
  headers?: Record<string, string> | (() => Record<string, string>);
}

export interface WaitOptions {
  signal?: AbortSignal;
  /** Called with a number from 0 to 1. */
  onProgress?: (progress: number) => void;
}

export interface SessionFilters {
  status?: SessionStatus;
  user_id?: string;
  format?: Format;
  started_after?: string | Date;
  started_before?: string | Date;
  project?: string;
  /** The beginning of the name. */
  name?: string;
  metadata?: Record<string, string>;
  page_size?: number;
}

export interface AudioUrlOptions {
  format?: TargetFormat | Format;
  markers?: boolean;
  partial?: boolean;
  /** A token to listen, for a player, which can set no header. */
  token?: string;
}

/** The HTTP API. */
export class Client {
  constructor(options?: ClientOptions);
  /** The URL of the server, without a slash at the end. */
  readonly server: string;

  /** Send a request and return its JSON; null for a response without a body. Rejects with a ScribeError. */
  request<T = any>(
    method: string,
    path: string,
    options?: { body?: unknown; query?: Record<string, unknown>; signal?: AbortSignal },
  ): Promise<T>;
  /** Send a request and return the Response, whatever its status. */
  fetch(
    method: string,
    path: string,
    options?: {
      body?: unknown;
      query?: Record<string, unknown>;
      headers?: Record<string, string>;
      signal?: AbortSignal;
    },
  ): Promise<Response>;

  readonly sessions: {
    /** Every session that matches, newest first. It gets one page after the other. */
    list(filters?: SessionFilters, options?: { signal?: AbortSignal }): AsyncIterableIterator<Session>;
    /** One page of sessions, for a list that is scrolled. */
    page(
      filters?: SessionFilters & { cursor?: string | null },
      options?: { signal?: AbortSignal },
    ): Promise<Page<Session>>;
    get(id: string, options?: { signal?: AbortSignal }): Promise<Session>;
    create(parameters?: SessionParameters & { retention_days?: number; legal_hold?: boolean }): Promise<CreatedSession>;
    update(
      id: string,
      changes: {
        name?: string | null;
        metadata?: Record<string, string | null> | null;
        retention_days?: number | null;
        legal_hold?: boolean;
      },
    ): Promise<Session>;
    /** Close a session and return it. */
    close(id: string): Promise<Session>;
    delete(id: string): Promise<void>;
    /** Wait until the recording of a closed session is ready. Rejects with a ScribeError if it fails. */
    ready(id: string, options?: WaitOptions): Promise<Session>;
    /** Create a token for a browser or a device. It is in `token`. */
    createToken(
      id: string,
      options?: { purpose?: "record" | "listen"; expires_in_seconds?: number },
    ): Promise<{ token: string; [key: string]: unknown }>;
  };

  readonly markers: {
    list(sessionId: string): AsyncIterableIterator<Marker>;
    add(sessionId: string, marker: { label: string; position_seconds?: number | null }): Promise<Marker>;
    update(
      sessionId: string,
      markerId: string,
      changes: { label?: string; position_seconds?: number | null },
    ): Promise<Marker>;
    delete(sessionId: string, markerId: string): Promise<void>;
  };

  /** The URL of a recording, for a player or a download. */
  audioUrl(id: string, options?: AudioUrlOptions): string;
  /** Wait until a recording can be downloaded in a format, which may need a transcode; returns its URL. */
  prepare(id: string, format?: TargetFormat | Format | null, options?: WaitOptions): Promise<string>;
  /** Get the waveform, once it is there. */
  waveform(
    id: string,
    options?: { points?: number; start?: number; end?: number; signal?: AbortSignal },
  ): Promise<Waveform>;
  /**
   * Listen to events, without an end. It reconnects by itself, and continues after the last event that it had.
   * `session.progress` comes for open sessions.
   */
  events(options?: {
    sessionId?: string | string[];
    lastEventId?: string;
    signal?: AbortSignal;
  }): AsyncIterableIterator<ScribeEvent>;
}

// The queue: what is not acknowledged yet.

export type Chunk = ArrayBuffer | ArrayBufferView | Blob;

/** A place for chunks that wait until the server has acknowledged them. */
export interface ChunkQueue {
  /** Begin a recording. */
  begin(details: QueueDetails): Promise<QueuedRecording>;
}

export interface QueueDetails {
  server: string;
  sessionId: string | null;
  source: string;
  parameters: SessionParameters;
}

export interface QueueEntry {
  /** The page in whose life it was added, counted from one. Each part is a source of its own. */
  part: number;
  /** Its place among the entries of its part. */
  position: number;
  /** Its place among the chunks of its part, or null for a marker. */
  index: number | null;
  size_bytes: number;
  label?: string;
}

/** What a queue holds of one recording. */
export interface QueuedRecording {
  readonly id: string;
  readonly details: QueueDetails & Record<string, unknown>;
  /** What was there already, oldest first. */
  readonly entries: QueueEntry[];
  /** The part of what is added now. */
  readonly part: number;
  add(entry: QueueEntry, data: ArrayBuffer | Blob | null): Promise<void>;
  read(entry: QueueEntry): Promise<ArrayBuffer | Blob>;
  /** Remove an entry and everything before it in its part. */
  remove(entry: QueueEntry): Promise<void>;
  update(changes: Record<string, unknown>): Promise<void>;
  /** Forget the recording. */
  discard(): Promise<void>;
  /** Let others have it, as if the page were closed. */
  release(): void;
}

/** Chunks in memory. They are lost with the page. */
export class MemoryQueue implements ChunkQueue {
  begin(details: QueueDetails): Promise<QueuedRecording>;
}

/** The chunks of a file, which is read as it is sent. */
export class FileQueue implements ChunkQueue {
  constructor(file: Blob, options?: { chunkSizeBytes?: number });
  begin(details: QueueDetails): Promise<QueuedRecording>;
}

/** Chunks in IndexedDB. They survive a reload, a crash, and the end of the browser. */
export class IndexedDbQueue implements ChunkQueue {
  constructor(options?: { name?: string });
  /** Whether this browser has IndexedDB. */
  static isSupported(): boolean;
  begin(details: QueueDetails): Promise<QueuedRecording>;
  /**
   * What closed pages have left behind, oldest first. What an open page is recording is not among it: `onChange` is
   * called once, when such a page has ended its recording or was closed.
   */
  leftovers(options?: { onChange?: () => void; signal?: AbortSignal }): Promise<Leftover[]>;
}

export interface LeftoverOptions extends Omit<ClientOptions, "server"> {
  /** A session to upload to, if that of the recording was closed meanwhile and the application creates sessions. */
  sessionId?: string;
}

/** What a closed page could not upload. Tokens are not stored: pass one if the server needs it. */
export interface Leftover {
  readonly id: string;
  readonly server: string;
  /** Null if the page was never connected. */
  readonly sessionId: string | null;
  readonly parameters: SessionParameters;
  readonly startedAt: Date;
  readonly pendingChunks: number;
  readonly pendingBytes: number;
  /** Seconds of sound that wait, for PCM; null otherwise. */
  readonly pendingSeconds: number | null;
  /** Upload it, close the session, and wait for the recording. */
  upload(options?: LeftoverOptions): Promise<Session>;
  /** Upload it with a Recorder, whose events tell how far it is, and which can record on. */
  resume(options?: LeftoverOptions): Recorder;
  /** The chunks as a file: a WAV file for PCM, otherwise the bytes of the stream. */
  blob(): Promise<Blob>;
  /** Delete it from this browser. */
  discard(): Promise<void>;
}

// Recording.

export type RecorderState =
  | "connecting"
  | "recording"
  | "offline"
  | "paused"
  | "closing"
  | "completed"
  | "failed";

export interface RecorderOptions extends ClientOptions {
  /** The session to record to. Without one, a new session is created. */
  sessionId?: string;
  /** The parameters of a new session. */
  parameters?: SessionParameters;
  /** The name of this stream in the session. The default is unique. */
  source?: string;
  /** Where chunks wait. The default is a MemoryQueue. */
  queue?: ChunkQueue;
}

export interface RecorderEvents {
  /** The state has changed; `recorder.state` is the new one. */
  state: CustomEvent<{ state: RecorderState; previous: RecorderState }>;
  /** Chunks were added or acknowledged. */
  progress: CustomEvent<{ acknowledgedChunks: number; pendingChunks: number; pendingBytes: number }>;
  /** The id of the session is known, or the recording goes on in another session. */
  session: CustomEvent<{ sessionId: string }>;
  /** Something to know. Recording goes on. */
  warning: CustomEvent<ScribeError>;
  /** Recording has ended. What was not uploaded stays in the queue. */
  error: CustomEvent<ScribeError>;
}

/**
 * Sends audio to a session. It keeps each chunk until the server has acknowledged it, and reconnects for as long as it
 * takes.
 */
export class Recorder extends EventTarget {
  constructor(options?: RecorderOptions);
  readonly state: RecorderState;
  /** Null until the server has created the session. */
  readonly sessionId: string | null;
  /** Every session that the recording is in: more than one if the server closed a session during a long outage. */
  readonly sessionIds: readonly string[];
  /** Whether there is a connection now. */
  readonly isConnected: boolean;
  readonly acknowledgedChunks: number;
  readonly pendingChunks: number;
  readonly pendingBytes: number;
  /** Seconds of sound that wait, for PCM; null otherwise. */
  readonly pendingSeconds: number | null;
  readonly error: ScribeError | null;
  readonly client: Client;
  /** Keep a chunk, and send it. The promise resolves when it is in the queue, before it is acknowledged. */
  send(chunk: Chunk): Promise<void>;
  /** Place a marker behind what was sent. */
  marker(label: string): Promise<void>;
  /** Pause the session. What was sent before is still uploaded. */
  pause(): void;
  resume(): void;
  /** Upload everything, close the session, and wait for the recording. */
  close(): Promise<Session>;
  /** Upload everything, and leave the session open. */
  flush(): Promise<void>;
  /** Stop without closing the session. What was not uploaded stays in the queue. */
  abort(): void;
  addEventListener<K extends keyof RecorderEvents>(
    type: K,
    listener: (event: RecorderEvents[K]) => void,
    options?: boolean | AddEventListenerOptions,
  ): void;
  addEventListener(
    type: string,
    listener: EventListenerOrEventListenerObject,
    options?: boolean | AddEventListenerOptions,
  ): void;
}

export interface MicrophoneOptions {
  deviceId?: string;
  /** `auto` chooses PCM where the browser has AudioWorklet: only PCM can go on in the same stream after a reload. */
  mode?: "auto" | "pcm" | "compressed";
  /** Whether the browser may cancel echo, suppress noise and control the gain. */
  processing?: boolean;
  channels?: 1 | 2;
  /** The sample rate of PCM in Hz. The default is that of the microphone. */
  sampleRate?: number;
  /** The length of a chunk. */
  chunkMs?: number;
  /** The bit rate of a compressed stream. */
  bitRate?: number;
}

export interface Level {
  /** The highest sample, from 0 to 1. */
  peak: number;
  /** The root of the mean square, from 0 to 1. */
  rms: number;
}

export interface MicrophoneEvents {
  chunk: CustomEvent<ArrayBuffer | Blob>;
  level: CustomEvent<Level>;
  /** The device has gone, or its permission was withdrawn. */
  lost: Event;
  /** The system has muted or unmuted the device. */
  mute: Event;
  unmute: Event;
}

/** A microphone: chunks of PCM (AudioWorklet) or of a compressed stream (MediaRecorder). */
export class Microphone extends EventTarget {
  private constructor();
  static isSupported(): boolean;
  /** The microphones. Their labels are empty until the person has allowed one. */
  static devices(): Promise<MediaDeviceInfo[]>;
  /** Ask for a microphone. Rejects with a ScribeError: `permission_denied`, `no_microphone`, `microphone_busy`. */
  static open(options?: MicrophoneOptions): Promise<Microphone>;
  readonly mode: "pcm" | "compressed";
  readonly parameters: Pick<SessionParameters, "sample_rate" | "channels" | "encoding" | "format">;
  readonly stream: MediaStream;
  readonly deviceId: string;
  readonly label: string;
  readonly level: Level;
  readonly isRecording: boolean;
  /** Whether the device has gone. */
  readonly isLost: boolean;
  /** Begin to give sound. A microphone that was paused before gives its first sound when it is resumed. */
  start(): Promise<void>;
  pause(): void;
  resume(): void;
  /** Stop. The last chunk has come when the promise resolves. */
  stop(): Promise<void>;
  addEventListener<K extends keyof MicrophoneEvents>(
    type: K,
    listener: (event: MicrophoneEvents[K]) => void,
    options?: boolean | AddEventListenerOptions,
  ): void;
  addEventListener(
    type: string,
    listener: EventListenerOrEventListenerObject,
    options?: boolean | AddEventListenerOptions,
  ): void;
}

export interface RecordOptions extends RecorderOptions, MicrophoneOptions {
  /** The title of a new session. */
  name?: string;
  metadata?: Record<string, string>;
  /** What a closed page has left behind, to go on with. */
  leftover?: Leftover;
}

/** A microphone and its recorder. */
export interface LiveRecording {
  /** The microphone now. */
  readonly microphone: Microphone;
  readonly recorder: Recorder;
  readonly isPaused: boolean;
  /** Whether the microphone has gone. `switchTo` goes on with another one, and `stop` ends the recording. */
  readonly isLost: boolean;
  /** Seconds that were recorded, without pauses. */
  readonly seconds: number;
  marker(label: string): Promise<void>;
  pause(): void;
  resume(): void;
  /**
   * Go on with another microphone, such as after the event `lost`. Its sound is of the same session. The old one is
   * heard until the new one is ready.
   */
  switchTo(options?: MicrophoneOptions): Promise<void>;
  /** Stop the microphone, upload everything, and wait for the recording. */
  stop(): Promise<Session>;
}

/** Record a microphone. Chunks wait in IndexedDB where the browser has it. */
export function record(options?: RecordOptions): Promise<LiveRecording>;

/** Stream a file as a session. */
export function upload(
  file: Blob,
  options?: RecorderOptions & {
    signal?: AbortSignal;
    /** Called with a number from 0 to 1. */
    onProgress?: (progress: number) => void;
    chunkSizeBytes?: number;
  },
): Promise<Session>;

// Playback.

/**
 * Plays a session in a media element, also while it is still being recorded. Events: `waiting` at the end of what there
 * is, `complete` at the end of the recording, `error`.
 */
export class LivePlayer extends EventTarget {
  constructor(element: HTMLMediaElement, options: { client: Client; sessionId: string; token?: string });
  /** Whether the session is still being recorded. */
  readonly isLive: boolean;
  /** Whether it has played what there is, and plays on by itself when there is more. */
  readonly isWaiting: boolean;
  /** Load what is there. */
  load(): Promise<void>;
  /** Play. At the end of what there is, wait for more. */
  play(): Promise<void>;
  /** Pause, or wait no longer. */
  pause(): void;
  /** Jump to the newest sound. */
  seekToLive(): Promise<void>;
  /** Stop, and leave the element. */
  close(): void;
}
