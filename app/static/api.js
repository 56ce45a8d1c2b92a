// HTTP client of the service; error responses become exceptions.

import { key } from "./key.js";

/** An error response of the service. retryAfter: seconds, or null. */
export class ServiceError extends Error {
  constructor(status, detail, code, retryAfter = null, requestId = null) {
    super(detail);
    Object.assign(this, { name: "ServiceError", status, code, retryAfter, requestId });
  }

  static async of(response) {
    const body = await response.json().catch(() => ({}));
    const seconds = Number.parseFloat(response.headers.get("Retry-After"));
    return new ServiceError(
      response.status,
      body.detail ?? `the response was ${response.status} ${response.statusText}`,
      body.code ?? "unknown",
      Number.isFinite(seconds) ? seconds : null,
      response.headers.get("X-Request-ID"),
    );
  }
}

/** The request did not reach the service, or the response was aborted. */
export class NetworkError extends Error {
  name = "NetworkError";
}

/** fetch with the API key. Throws ServiceError for an error status, NetworkError without a response. */
export async function call(path, options = {}) {
  let response;
  try {
    response = await fetch(path, { ...options, headers: { ...options.headers, "X-API-Key": key.value } });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new NetworkError("the service does not respond");
  }
  if (!response.ok) throw await ServiceError.of(response);
  return response;
}

/** The streamed response of POST /tts/generate. */
export function generate(parameters, signal) {
  return call("/tts/generate", {
    method: "POST",
    headers: { "Content-Type": "application/json" },
    body: JSON.stringify(parameters),
    signal,
  });
}

/** A URL with the API key, for elements and sockets that send no headers. The service does not log queries. */
export function urlOf(path, parameters = {}) {
  const query = new URLSearchParams({ ...parameters, api_key: key.value });
  return `${path}?${query}`;
}

/** Repeats a failed request to get its error, which elements and sockets do not expose; aborts it if it succeeds. */
export async function fetchError(parameters) {
  const controller = new AbortController();
  try {
    await generate(parameters, controller.signal);
    return null;
  } catch (error) {
    return error;
  } finally {
    controller.abort();
  }
}
