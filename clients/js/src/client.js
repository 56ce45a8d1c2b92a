// Client of the service: HTTP calls with the API key, speech over WS /ws, conversations over WS /v1/realtime.

import { NetworkError, ServiceError } from "./errors.js";
import { Inbox } from "./inbox.js";
import { RealtimeSocket } from "./realtime_socket.js";

/** @import { ClientOptions, ConversationHandlers, DialogueParameters, Mark, SpeechParameters, SpeechStarted, StoredVoice, StreamParameters, VoiceDetails } from "./index.js" */

export const SAMPLE_RATE = 24000; // of the service's audio

export class CsmClient {
  #url;
  #key;
  #WebSocket;

  /**
   * url: of the service; by default that of the page. key: an API key, or a function that returns it at each request.
   * WebSocket: the class to use where there is no global one (Node before 22: `ws`).
   * @param {ClientOptions} options
   */
  constructor({ url = globalThis.location?.origin, key = "", WebSocket = globalThis.WebSocket } = {}) {
    if (!url) throw new TypeError("url is missing: say where the service is, such as http://localhost:8000");
    this.#url = url.replace(/\/+$/, "");
    this.#key = typeof key === "function" ? key : () => key;
    this.#WebSocket = WebSocket;
  }

  // ---- HTTP

  /**
   * fetch of a path with the API key. Throws ServiceError for an error status, NetworkError without a response.
   * @param {string} path
   * @param {RequestInit} options
   */
  async call(path, options = {}) {
    let response;
    try {
      const headers = new Headers(options.headers);
      headers.set("X-API-Key", this.#key());
      response = await fetch(this.#url + path, { ...options, headers });
    } catch (error) {
      if (options.signal?.aborted) throw error;
      throw new NetworkError("the service does not respond", { cause: error });
    }
    if (!response.ok) throw await ServiceError.of(response);
    return response;
  }

  /**
   * A URL with the API key, for elements that send no headers. The service does not log queries.
   * @param {string} path
   * @param {Record<string, string>} parameters
   */
  urlOf(path, parameters = {}) {
    return `${this.#url}${path}?${new URLSearchParams({ ...parameters, api_key: this.#key() })}`;
  }

  /**
   * The streamed response of POST /tts/generate, in any format, or of POST /tts/dialogue for parameters with turns.
   * @param {SpeechParameters | DialogueParameters} parameters
   * @param {AbortSignal} [signal]
   */
  generate(parameters, signal) {
    return this.call("turns" in parameters ? "/tts/dialogue" : "/tts/generate", {
      method: "POST",
      headers: { "Content-Type": "application/json" },
      body: JSON.stringify(parameters),
      signal,
    });
  }

  /**
   * Repeats a failed request to get its error, which elements and sockets do not expose; aborts it if it succeeds.
   * @param {SpeechParameters | DialogueParameters} parameters
   */
  async errorOf(parameters) {
    const controller = new AbortController();
    try {
      await this.generate(parameters, controller.signal);
      return null;
    } catch (error) {
      return /** @type {Error} */ (error);
    } finally {
      controller.abort();
    }
  }

  /**
   * The ids of all voices.
   * @returns {Promise<string[]>}
   */
  async voices() {
    return (await this.call("/voices")).json();
  }

  /**
   * {id, seconds, has_transcript, preloaded, created, sha256} of a voice.
   * @param {string} id
   * @returns {Promise<VoiceDetails>}
   */
  async voice(id) {
    return (await this.call(`/voices/${encodeURIComponent(id)}`)).json();
  }

  /**
   * Adds a voice, or replaces it. file: a File or Blob with the recording. Resolves with {voice_id, message, warnings}.
   * @param {Blob} file
   * @param {{ voiceId?: string, transcript?: string, replace?: boolean }} details
   * @returns {Promise<StoredVoice>}
   */
  async addVoice(file, { voiceId, transcript, replace = false } = {}) {
    const form = new FormData();
    form.append("file", file, file instanceof File ? file.name : (voiceId ?? "voice.wav"));
    if (transcript !== undefined) form.append("transcript", transcript);
    if (voiceId && !replace) form.append("voice_id", voiceId);
    if (replace && !voiceId) throw new TypeError("voiceId is missing: say which voice is replaced");
    const path = replace && voiceId ? `/voices/${encodeURIComponent(voiceId)}` : "/voices";
    return (await this.call(path, { method: replace ? "PUT" : "POST", body: form })).json();
  }

  /** @param {string} id */
  async deleteVoice(id) {
    await this.call(`/voices/${encodeURIComponent(id)}`, { method: "DELETE" });
  }

  // ---- WebSockets

  /**
   * A new WebSocket of a path, which has the API key.
   * @param {string} path
   * @param {Record<string, string>} parameters
   * @returns {WebSocket}
   */
  socket(path, parameters = {}) {
    if (!this.#WebSocket) throw new TypeError("there is no WebSocket here: give the client one, such as that of `ws`");
    return new this.#WebSocket(this.urlOf(path, parameters).replace(/^http/, "ws"));
  }

  /**
   * Speaks over WS /ws with the lowest latency: an async iterator of Float32Array, mono at SAMPLE_RATE.
   *
   * parameters: those of /tts/generate; `text` may be an async iterable of its parts as an LLM writes them.
   * onStatus: called with the message that the speech has started. onMark: with `timestamps: true`, called with each
   * mark, which tells of a text chunk whose samples have come when its words are said.
   * To leave the loop, or to abort `signal`, ends the generation. Throws ServiceError, NetworkError, the signal's reason.
   * @param {StreamParameters} parameters
   * @param {{ signal?: AbortSignal, onStatus?: (status: SpeechStarted) => void, onMark?: (mark: Mark) => void }} options
   * @returns {AsyncGenerator<Float32Array, void, void>}
   */
  async *speak({ text, ...parameters }, { signal, onStatus = () => {}, onMark = () => {} } = {}) {
    signal?.throwIfAborted();
    const socket = this.socket("/ws");
    const inbox = /** @type {Inbox<Float32Array>} */ (new Inbox());
    const abort = () => inbox.fail(signal?.reason);
    let seconds = 0;
    socket.binaryType = "arraybuffer";
    socket.onopen = () => sendText(socket, text, parameters, inbox);
    socket.onmessage = ({ data }) => {
      if (data instanceof ArrayBuffer) return inbox.push(new Float32Array(data));
      const message = JSON.parse(data);
      if (message.type === "audio_status") onStatus(message);
      if (message.type === "mark") onMark(message);
      if (message.type === "error") inbox.fail(ServiceError.ofMessage(message));
      if (message.type === "completion") inbox.end();
    };
    const detach = () => (socket.onclose = socket.onerror = socket.onmessage = socket.onopen = null);
    socket.onclose = socket.onerror = () => {
      detach(); // the other event may follow, or not: Node 20 closes no socket that was never open
      this.#closed({ text, ...parameters }, seconds).then((error) => inbox.fail(error));
    };
    signal?.addEventListener("abort", abort);
    try {
      for await (const samples of inbox) {
        seconds += samples.length / SAMPLE_RATE;
        yield samples;
      }
    } finally {
      signal?.removeEventListener("abort", abort);
      detach();
      if (socket.readyState === socket.OPEN) socket.send(JSON.stringify({ type: "cancel", all: true })); // no effect at its end
      socket.close();
    }
  }

  /**
   * A conversation over WS /v1/realtime; see RealtimeSocket.
   * @param {ConversationHandlers} handlers
   */
  converse(handlers) {
    return new RealtimeSocket(this, handlers);
  }

  /**
   * A WebSocket does not expose why it was refused; HTTP does.
   * @param {StreamParameters} parameters
   * @param {number} seconds
   */
  async #closed(parameters, seconds) {
    if (seconds) return new NetworkError(`the stream was aborted after ${seconds.toFixed(1)} s: the audio is incomplete`);
    const text = typeof parameters.text === "string" ? parameters.text : "Hello.";
    return (
      (await this.errorOf({ ...parameters, text })) ?? new NetworkError("the WebSocket was closed before the first audio")
    );
  }
}

/**
 * @param {WebSocket} socket
 * @param {StreamParameters["text"]} text
 * @param {object} parameters
 * @param {Inbox<Float32Array>} inbox
 */
async function sendText(socket, text, parameters, inbox) {
  const send = (/** @type {object} */ fields) => socket.readyState === socket.OPEN && socket.send(JSON.stringify({ ...fields, binary: true }));
  if (typeof text === "string") return send({ ...parameters, text });
  try {
    for await (const part of text) send({ ...parameters, text: part, continue: true });
    send({ ...parameters, text: "" });
  } catch (error) {
    inbox.fail(error); // of the one who writes the text
  }
}
