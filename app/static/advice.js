// Describes an error to the user: a title, the service's detail, and what to do on this page.

import { MicrophoneError, NetworkError, ServiceError } from "./client/index.js";

/**
 * @returns {{title: string, detail: string, advice: string, focusKey?: boolean, retryAfter?: number, waits?: boolean}}
 *   focusKey: the API key has to be corrected. retryAfter: seconds to wait before a retry.
 *   waits: the service is not ready yet, so the page waits for it.
 */
export function describeError(error) {
  const detail = error.message;
  if (error instanceof NetworkError) {
    return { title: "No connection", detail, advice: "Check that the service is running, then try again." };
  }
  if (error instanceof MicrophoneError) {
    return { title: "No microphone", detail, advice: "Check that one is connected and allowed for this page, then try again." };
  }
  if (!(error instanceof ServiceError)) {
    return { title: "Playback failed", detail, advice: "Try again, or choose another playback method." };
  }
  switch (error.status) {
    case 401:
      return {
        title: "Invalid API key",
        detail,
        advice: "Enter one of the keys in the service’s .env.",
        focusKey: true,
      };
    case 403:
      return { title: "Not allowed", detail, advice: "Add a voice with another name instead." };
    case 429: {
      if (error.code.endsWith("_limit")) {
        const advice = "Wait, or use another key.";
        return { title: "This key’s limit is reached", detail, advice, retryAfter: error.retryAfter ?? 1 };
      }
      const advice = "A slot becomes free when another request ends or is stopped.";
      return { title: "All slots are busy", detail, advice, retryAfter: error.retryAfter ?? 1 };
    }
    case 503:
      return { title: "Not ready yet", detail, advice: "This page shows when it is ready.", waits: true };
    case 409:
      return { title: "The name is taken", detail, advice: "Choose another name, or replace that voice." };
    case 413:
      return { title: "Too large", detail, advice: "Cut the recording to its clearest 5 to 15 seconds." };
    case 400:
    case 415:
      return {
        title: "Unsupported recording",
        detail,
        advice: "Save it as wav, mp3, flac, ogg, m4a, webm, aiff or caf and try again.",
      };
    case 404:
      return { title: "Not found", detail, advice: "It may have been deleted: choose another voice." };
    case 422:
      return { title: "Invalid value", detail, advice: "Change it and try again." };
    default:
      return {
        title: "The service failed",
        detail,
        advice: error.requestId ? `See its log, request id ${error.requestId}.` : "See its log.",
      };
  }
}
