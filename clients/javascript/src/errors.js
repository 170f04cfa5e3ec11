/** Why something failed: an error of the server, or one of the client's own. */
export class ScribeError extends Error {
  /**
   * @param {string} code A stable code for programs.
   * @param {string} message A sentence for people.
   * @param {object} [details] The keys of the server's error, and `status` of an HTTP response.
   */
  constructor(code, message, { status, retryable = false, retry_after_seconds, cause, ...details } = {}) {
    super(message, { cause });
    this.name = "ScribeError";
    this.code = code;
    this.status = typeof status === "number" ? status : undefined;
    this.retryable = Boolean(retryable);
    this.retryAfterSeconds = retry_after_seconds === undefined ? undefined : Number(retry_after_seconds);
    this.details = details;
  }
}

/** Statuses after which the same request may succeed. */
const RETRYABLE_STATUSES = new Set([202, 408, 429, 502, 503, 504, 507]);

/** Return the error of an HTTP response. A proxy may have answered in place of the server, without JSON. */
export async function errorOf(response) {
  const body = await response.json().catch(() => null);
  const { detail, code, error, ...details } = body && typeof body === "object" ? body : {};
  const retryAfter = response.headers.get("Retry-After");
  return new ScribeError(
    code ?? `http_${response.status}`,
    detail ?? error ?? `The server answered ${response.status} ${response.statusText}`.trim(),
    {
      retryable: RETRYABLE_STATUSES.has(response.status),
      ...(retryAfter && { retry_after_seconds: retryAfter }),
      ...details,
      status: response.status,
    },
  );
}
