// Polls the status of the service and its workers while the page is visible.

import { client } from "./api.js";
import { byId, make } from "./dom.js";
import { key } from "./key.js";

const POLL_INTERVAL = 5000; // milliseconds
const LOADING_POLL_INTERVAL = 1000; // milliseconds

const WORDS = {
  ok: "Ready",
  degraded: "Degraded",
  loading: "Starting",
  draining: "Shutting down",
  failed: "Failed",
  gone: "No connection",
};

// Models used without CSM-1B's weights, by their names in /health.
const FALLBACK_MODELS = {
  kokoro: "Kokoro, a small neural voice,",
  "csm-mini": "csm-mini, a small demonstration voice,",
  "espeak-ng": "espeak-ng",
};
// How each of them treats a recording.
const FALLBACK_LIMITS = {
  kokoro: "Kokoro speaks English and does not clone: it speaks a recording in the nearest of its own voices.",
  "csm-mini": "This demonstration sounds robotic and follows little more than the pitch of a voice.",
  "espeak-ng": "This fallback sounds robotic and follows only the pitch of a voice.",
};

export class ServiceStatus {
  /** Name of the engine, or of all engines in use; null before one is ready. */
  engine = null;
  #state = "checking";
  #timer = null;
  #waiting = [];

  start() {
    document.addEventListener("visibilitychange", () => (document.hidden ? clearTimeout(this.#timer) : this.refresh()));
    this.refresh();
  }

  /** Resolves when the service is ready. */
  waitUntilReady() {
    return new Promise((resolve) => {
      this.#waiting.push(resolve);
      this.refresh();
    });
  }

  async refresh() {
    clearTimeout(this.#timer);
    const [health, status] = await Promise.all([get("/health", false), key.value ? get("/system-status", true) : null]);
    this.#showState(health);
    this.#showWorkers(health, status);
    clearTimeout(this.#timer);
    if (!document.hidden) this.#timer = setTimeout(() => this.refresh(), this.#state === "loading" ? LOADING_POLL_INTERVAL : POLL_INTERVAL);
  }

  #showState(health) {
    const engines = Object.values(health?.tts_engines ?? {});
    const names = new Set(engines.map((each) => each.engine).filter(Boolean));
    this.engine = names.size ? [...names].join(", ") : null;
    this.#state = health?.status ?? "gone";
    const loading = engines.find((each) => each.state === "loading");
    const progress = this.#state === "loading" && loading ? ` ${Math.round(100 * loading.progress)} %` : "";
    setText(byId("service"), `${WORDS[this.#state] ?? this.#state}${progress}`);
    byId("service").dataset.state = this.#state;
    const fallback = engines.flatMap((each) => [each.model, each.engine]).find((name) => name in FALLBACK_MODELS);
    byId("stand-in").hidden = !fallback;
    byId("stand-in-name").textContent = FALLBACK_MODELS[fallback] ?? "";
    byId("stand-in-limits").textContent = FALLBACK_LIMITS[fallback] ?? "";
    if (this.#state === "ok" || this.#state === "degraded") {
      for (const resolve of this.#waiting.splice(0)) resolve();
    }
  }

  #showWorkers(health, status) {
    const places = Object.entries(health?.tts_engines ?? {});
    byId("workers").replaceChildren(
      ...places.map(([name, place], at) => workerItem(name, place, status?.workers[at], status)),
      ...Object.entries(health?.components ?? {})
        .filter(([, component]) => component.state === "failed")
        .map(([name, component]) => componentItem(name, component)),
    );
    byId("host").textContent = health === null ? "The service does not respond." : status ? hostLine(status.cpu) : "";
  }
}

/** The JSON body; null without one. /health has a body with every status. */
async function get(path, keyed) {
  try {
    const response = await (keyed ? client.call(path) : fetch(path));
    return await response.json();
  } catch {
    return null;
  }
}

function workerItem(name, place, worker, status) {
  const item = make(
    "li",
    { data: { state: place.state } },
    make(
      "div",
      { className: "over" },
      make("b", { textContent: name }),
      make("span", { className: "pill", data: { state: place.state }, textContent: place.state }),
    ),
  );
  const facts = [place.engine, place.state === "loading" ? place.doing : null];
  if (worker?.capacity)
    facts.push(`${worker.active} of ${worker.capacity} slots active`, worker.queued ? `${worker.queued} queued` : null);
  item.append(make("p", { className: "hint", textContent: facts.filter(Boolean).join(" · ") }));
  if (place.state === "loading") item.append(bar("Loading", place.progress));
  if (worker?.capacity) item.append(bar("Active slots", worker.active / worker.capacity));
  const gpu = worker?.gpu ? status.gpus.find((each) => String(each.device_id) === worker.gpu) : null;
  if (gpu) item.append(...gpuLines(gpu));
  if (place.error) item.append(make("p", { className: "wrong", textContent: place.error }));
  return item;
}

function componentItem(name, component) {
  return make(
    "li",
    { data: { state: component.state } },
    make(
      "div",
      { className: "over" },
      make("b", { textContent: name.replaceAll("_", " ") }),
      make("span", { className: "pill", data: { state: component.state }, textContent: component.state }),
    ),
    make("p", { className: "wrong", textContent: component.error }),
  );
}

function gpuLines({ device_id: id, utilization_percent: rates, memory_gb: memory }) {
  const lines = [];
  if (rates.gpu !== null) lines.push(`${rates.gpu} % busy`);
  if (memory.total) lines.push(`${memory.used} of ${memory.total} GB`);
  const line = make("p", { className: "hint", textContent: `GPU ${id}: ${lines.join(" · ") || "not available"}` });
  return memory.total ? [line, bar("GPU memory in use", memory.used / memory.total)] : [line];
}

function hostLine({ utilization_percent: busy, ram_gb: ram }) {
  const memory = `${ram.used.toFixed(1)} of ${ram.total.toFixed(1)} GB of memory`;
  return `This machine: CPU ${Math.round(busy)} % busy, ${memory}.`;
}

function bar(label, share) {
  const percent = Math.round(100 * Math.min(1, Math.max(0, share)));
  const inner = make("i");
  inner.style.width = `${percent}%`;
  const attributes = {
    role: "meter",
    "aria-label": label,
    "aria-valuemin": 0,
    "aria-valuemax": 100,
    "aria-valuenow": percent,
  };
  return make("div", { className: "bar", attributes }, inner);
}

/** Sets changed text only, because screen readers announce every write to a live region. */
function setText(element, text) {
  if (element.textContent !== text) element.textContent = text;
}
