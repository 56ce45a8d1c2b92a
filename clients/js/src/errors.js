// What a client throws.

/** @type {Record<string, number>} */
const STATUS = { busy: 429, starting: 503, draining: 503, unavailable: 503, no_model: 503, unknown_voice: 404, unauthorized: 401 };
const LIMITS = /_limit$/;
const ENGINE_ERRORS = new Set(["engine_failed", "out_of_memory", "internal_error"]);

/** An error response of the service. retryAfter: seconds, or null. */
export class ServiceError extends Error {
  name = "ServiceError";

  /**
   * @param {number} status
   * @param {string} detail
   * @param {string} code
   * @param {number | null} retryAfter
   * @param {string | null} requestId
   */
  constructor(status, detail, code, retryAfter = null, requestId = null) {
    super(detail);
    this.status = status;
    this.code = code;
    this.retryAfter = retryAfter;
    this.requestId = requestId;
  }

  /**
   * Of an HTTP response with an error status.
   * @param {Response} response
   */
  static async of(response) {
    const body = await response.json().catch(() => ({}));
    const seconds = Number.parseFloat(response.headers.get("Retry-After") ?? "");
    return new ServiceError(
      response.status,
      body.detail ?? `the response was ${response.status} ${response.statusText}`,
      body.code ?? "unknown",
      Number.isFinite(seconds) ? seconds : null,
      response.headers.get("X-Request-ID"),
    );
  }

  /**
   * Of an error message of WS /ws, with the status that the same error has over HTTP.
   * @param {{ code: string, message: string, retry_after?: number }} message
   */
  static ofMessage({ code, message, retry_after: retryAfter }) {
    const status = STATUS[code] ?? (LIMITS.test(code) ? 429 : ENGINE_ERRORS.has(code) ? 500 : 422);
    return new ServiceError(status, message, code, retryAfter ?? null);
  }
}

/** The request did not reach the service, or the response was aborted. */
export class NetworkError extends Error {
  name = "NetworkError";
}
