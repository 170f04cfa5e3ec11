import { ScribeError } from "./errors.js";

/** Wait, or reject as soon as the signal is aborted. */
export function sleep(seconds, signal) {
  return new Promise((resolve, reject) => {
    if (signal?.aborted) return reject(signal.reason);
    const timer = setTimeout(done, 1000 * seconds);
    function done() {
      signal?.removeEventListener("abort", stopped);
      resolve();
    }
    function stopped() {
      clearTimeout(timer);
      reject(signal.reason);
    }
    signal?.addEventListener("abort", stopped, { once: true });
  });
}

const FIRST_DELAY_SECONDS = 0.5;
const LONGEST_DELAY_SECONDS = 30;

/**
 * Return the seconds before the next attempt. The delay doubles with each attempt and is spread at random, so that the
 * clients of a server that comes back do not all arrive at once.
 *
 * @param {number} attempt The number of failed attempts, from one.
 * @param {number} [retryAfterSeconds] The least that the server has asked for.
 */
export function backoffSeconds(attempt, retryAfterSeconds = 0) {
  const longest = Math.min(LONGEST_DELAY_SECONDS, FIRST_DELAY_SECONDS * 2 ** Math.min(attempt - 1, 10));
  return retryAfterSeconds + longest * (0.5 + 0.5 * Math.random());
}

/** Return a token, which may be a string, nothing, or a function that returns either. */
export async function tokenOf(token) {
  if (typeof token !== "function") return token;
  try {
    return await token();
  } catch (error) {
    throw new ScribeError("token_unavailable", `The application could not get a token: ${error?.message ?? error}`, {
      retryable: true,
      cause: error,
    });
  }
}
