/** Times, sizes and reasons in words. */

/** Return seconds as a clock shows them: 0:05, 1:02:03. */
export function clock(seconds) {
  const whole = Math.floor(seconds);
  const parts = [Math.floor(whole / 3600), Math.floor(whole / 60) % 60, whole % 60];
  if (!parts[0]) parts.shift();
  return parts.map((part, index) => (index ? String(part).padStart(2, "0") : part)).join(":");
}

/** Return the amount that waits to be uploaded: as a time for PCM, otherwise as a size. */
export function amount(bytes, seconds) {
  if (seconds === null || seconds === undefined) return size(bytes);
  if (seconds < 60) return `${Math.ceil(seconds)} s`;
  return `${Math.floor(seconds / 60)} min ${Math.floor(seconds % 60)} s`;
}

export function size(bytes) {
  if (bytes < 1000) return `${bytes} bytes`;
  const units = ["kB", "MB", "GB"];
  let value = bytes / 1000;
  while (value >= 1000 && units.length > 1) {
    value /= 1000;
    units.shift();
  }
  return `${value.toFixed(value < 10 ? 1 : 0)} ${units[0]}`;
}

const REASONS = {
  permission_denied:
    "The browser does not let this page use the microphone. Allow it in the settings of the page (the icon beside the address), then press Record again. You can also upload a file below.",
  no_microphone: "No microphone was found. Connect one and press Record again, or upload a file below.",
  microphone_busy: "The microphone cannot be used now. Close other programs that use it, then press Record again.",
  gesture_needed: "The browser waits for a click. Press Continue.",
  not_authenticated: "You are no longer logged in. Log in again in another tab, then upload the audio that is kept here.",
};

/** Return what the person can do about an error. */
export function reason(error) {
  return REASONS[error.code] ?? error.message;
}
