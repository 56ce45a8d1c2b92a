// Calls to the service, and its refusals as errors that say what to do.

import { key } from "./key.js";

/** What the service refused, in its own words. retryAfter: seconds, or null. */
export class Refusal extends Error {
  constructor(status, detail, code, retryAfter = null, requestId = null) {
    super(detail);
    Object.assign(this, { name: "Refusal", status, code, retryAfter, requestId });
  }

  static async of(response) {
    const body = await response.json().catch(() => ({}));
    const seconds = Number.parseFloat(response.headers.get("Retry-After"));
    return new Refusal(
      response.status,
      body.detail ?? `the answer was ${response.status} ${response.statusText}`,
      body.code ?? "unknown",
      Number.isFinite(seconds) ? seconds : null,
      response.headers.get("X-Request-ID"),
    );
  }
}

/** What never reached the service, or broke on its way back. */
export class Unreachable extends Error {
  name = "Unreachable";
}

/** fetch with the key. Raises Refusal for a status that is an error, Unreachable where nothing answers. */
export async function call(path, options = {}) {
  let response;
  try {
    response = await fetch(path, { ...options, headers: { ...options.headers, "X-API-Key": key.value } });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Unreachable("the service does not answer");
  }
  if (!response.ok) throw await Refusal.of(response);
  return response;
}

/** The streamed answer of /tts/generate to parameters as API.md names them. */
export function generate(parameters, signal) {
  return call("/tts/generate", {
    method: "POST",
    headers: { "Content-Type": "application/json" },
    body: JSON.stringify(parameters),
    signal,
  });
}

/** The same as an address, for elements and sockets that send no headers; the service writes no key in its log. */
export function addressOf(path, parameters = {}) {
  const query = new URLSearchParams({ ...parameters, api_key: key.value });
  return `${path}?${query}`;
}

/** Why a request is refused that an element or a socket could not tell about: asked for again, and left at once. */
export async function askWhy(parameters) {
  const asking = new AbortController();
  try {
    await generate(parameters, asking.signal);
    return null;
  } catch (error) {
    return error;
  } finally {
    asking.abort();
  }
}
