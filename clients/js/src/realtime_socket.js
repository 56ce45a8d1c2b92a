// Connection to WS /v1/realtime that comes back by itself.

import { ServiceError } from "./errors.js";

const FIRST_DELAY = 500; // milliseconds before the first new attempt; doubled after each
const LONGEST_DELAY = 8000;
const MAX_BACKLOG = 500_000; // bytes that wait to be sent, 8 s of audio: the connection is dead

/**
 * @import { CsmClient } from "./client.js"
 * @import { ConversationHandlers } from "./index.js"
 */

export class RealtimeSocket {
  #client;
  /** @type {WebSocket | null} */
  #socket = null;
  #delay = FIRST_DELAY;
  /** @type {ReturnType<typeof setTimeout> | null} */
  #timer = null;
  #handlers;
  #leaving = new AbortController();

  /**
   * client: a CsmClient. onEvent: called with each event of the service. onLost: called when a connection is lost or
   * refused; a new one is attempted. onRefused: called with a ServiceError, such as an invalid key; none is attempted.
   * @param {CsmClient} client
   * @param {ConversationHandlers} handlers
   */
  constructor(client, { onEvent, onLost = () => {}, onRefused = () => {} }) {
    this.#client = client;
    this.#handlers = { onEvent, onLost, onRefused };
    const { signal } = this.#leaving;
    globalThis.addEventListener?.("offline", () => this.#lost(), { signal }); // else a socket notices only after minutes
    globalThis.addEventListener?.("online", () => this.#timer && this.#connect(), { signal });
    this.#connect();
  }

  /**
   * Sends an event. Without a connection it is dropped.
   * @param {string} type
   * @param {Record<string, unknown>} fields
   */
  send(type, fields = {}) {
    if (this.#socket?.readyState !== 1) return;
    if (this.#socket.bufferedAmount > MAX_BACKLOG) this.#lost();
    else this.#socket.send(JSON.stringify({ type, ...fields }));
  }

  close() {
    this.#leaving.abort();
    clearTimeout(this.#timer ?? undefined);
    this.#drop();
  }

  #connect() {
    clearTimeout(this.#timer ?? undefined);
    this.#timer = null;
    this.#drop();
    const socket = this.#client.socket("/v1/realtime", { model: "csm-1b" });
    this.#socket = socket;
    socket.onmessage = ({ data }) => {
      const event = JSON.parse(data);
      if (event.type === "session.created") this.#delay = FIRST_DELAY;
      this.#handlers.onEvent(event);
    };
    socket.onclose = socket.onerror = () => this.#lost();
  }

  async #lost() {
    this.#drop();
    if (this.#timer !== null) return;
    this.#timer = setTimeout(() => this.#connect(), this.#delay);
    this.#delay = Math.min(2 * this.#delay, LONGEST_DELAY);
    this.#handlers.onLost();
    const refusal = await findRefusal(this.#client);
    if (refusal && !this.#leaving.signal.aborted) this.#handlers.onRefused(refusal);
  }

  #drop() {
    if (this.#socket) {
      this.#socket.onmessage = this.#socket.onclose = this.#socket.onerror = null;
      this.#socket.close();
    }
    this.#socket = null;
  }
}

/**
 * A WebSocket does not expose why it was refused; HTTP does. Null if it is worth another attempt.
 * @param {CsmClient} client
 */
async function findRefusal(client) {
  try {
    await client.voices();
    return null;
  } catch (error) {
    return error instanceof ServiceError && error.status === 401 ? error : null;
  }
}
