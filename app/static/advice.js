// What to do about an error: the service's own words first, then the next step on this page.

import { Refusal, Unreachable } from "./api.js";

/**
 * @returns {{title: string, detail: string, advice: string, focusKey?: boolean, retryAfter?: number, waits?: boolean}}
 *   focusKey: the key field is where to go. retryAfter: seconds until it is worth trying again.
 *   waits: the service is not ready yet, so the page watches it.
 */
export function adviceOn(error) {
  const detail = error.message;
  if (error instanceof Unreachable) {
    return { title: "No answer", detail, advice: "Is the service running? Start it, then try again." };
  }
  if (!(error instanceof Refusal)) {
    return { title: "That did not work", detail, advice: "Try again, or play it through another way." };
  }
  switch (error.status) {
    case 401:
      return {
        title: "The key is not right",
        detail,
        advice: "Type one of the keys in the service’s .env.",
        focusKey: true,
      };
    case 429: {
      const advice = "A slot is free again as soon as somebody’s speech ends or is stopped.";
      return { title: "Everybody is speaking", detail, advice, retryAfter: error.retryAfter ?? 1 };
    }
    case 503:
      return { title: "Not ready yet", detail, advice: "This page says when it is.", waits: true };
    case 409:
      return { title: "There is one of that name", detail, advice: "Take another name, or replace that voice." };
    case 413:
      return { title: "Too long", detail, advice: "Cut the recording to its clearest 5 to 15 seconds." };
    case 400:
    case 415:
      return {
        title: "It cannot be read",
        detail,
        advice: "Save it as wav, mp3, flac, ogg, m4a or webm and try again.",
      };
    case 404:
      return { title: "It is not there", detail, advice: "It may have been deleted meanwhile: choose another voice." };
    case 422:
      return { title: "A value does not fit", detail, advice: "Change it and try again." };
    default:
      return {
        title: "The service failed",
        detail,
        advice: error.requestId ? `Its log tells more under the id ${error.requestId}.` : "Its log tells more.",
      };
  }
}
