// How the service and each of its workers are, asked now and then while somebody looks.

import { call } from "./api.js";
import { byId, make } from "./dom.js";
import { key } from "./key.js";

const CALM = 5000; // milliseconds between two looks
const EAGER = 1000; // the same while it starts

const WORDS = {
  ok: "Ready",
  degraded: "Ready, in part",
  loading: "Starting",
  draining: "Shutting down",
  failed: "Failed",
  gone: "No answer",
};

// Who speaks where CSM's weights are not, as /health calls them.
const STAND_INS = { "csm-mini": "csm-mini, a small demonstration voice,", "espeak-ng": "espeak-ng" };

export class Machine {
  /** What speaks, as far as all workers agree; null before one is ready. */
  engine = null;
  #state = "asking";
  #timer = null;
  #waiting = [];

  start() {
    document.addEventListener("visibilitychange", () => (document.hidden ? clearTimeout(this.#timer) : this.look()));
    this.look();
  }

  /** Resolves when it can speak. */
  untilReady() {
    return new Promise((resolve) => {
      this.#waiting.push(resolve);
      this.look();
    });
  }

  async look() {
    clearTimeout(this.#timer);
    const [health, status] = await Promise.all([ask("/health", false), key.value ? ask("/system-status", true) : null]);
    this.#take(health);
    this.#list(health, status);
    clearTimeout(this.#timer);
    if (!document.hidden) this.#timer = setTimeout(() => this.look(), this.#state === "loading" ? EAGER : CALM);
  }

  #take(health) {
    const engines = Object.values(health?.tts_engines ?? {});
    const names = new Set(engines.map((each) => each.engine).filter(Boolean));
    this.engine = names.size ? [...names].join(", ") : null;
    this.#state = health?.status ?? "gone";
    const loading = engines.find((each) => each.state === "loading");
    const progress = this.#state === "loading" && loading ? ` ${Math.round(100 * loading.progress)} %` : "";
    say(byId("service"), `${WORDS[this.#state] ?? this.#state}${progress}`);
    byId("service").dataset.state = this.#state;
    const standIn = engines.flatMap((each) => [each.model, each.engine]).find((name) => name in STAND_INS);
    byId("stand-in").hidden = !standIn;
    byId("stand-in-name").textContent = STAND_INS[standIn] ?? "";
    if (this.#state === "ok" || this.#state === "degraded") {
      for (const resolve of this.#waiting.splice(0)) resolve();
    }
  }

  #list(health, status) {
    const places = Object.entries(health?.tts_engines ?? {});
    byId("workers").replaceChildren(
      ...places.map(([name, place], at) => workerItem(name, place, status?.workers[at], status)),
      ...Object.entries(health?.components ?? {})
        .filter(([, component]) => component.state === "failed")
        .map(([name, component]) => componentItem(name, component)),
    );
    byId("host").textContent = status ? hostLine(status.cpu) : "";
  }
}

/** The answer whatever its status, since /health tells by that, too; null where there is none. */
async function ask(path, keyed) {
  try {
    const response = await (keyed ? call(path) : fetch(path));
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
    facts.push(`${worker.active} of ${worker.capacity} speaking`, worker.queued ? `${worker.queued} waiting` : null);
  item.append(make("p", { className: "hint", textContent: facts.filter(Boolean).join(" · ") }));
  if (place.state === "loading") item.append(bar("Loading", place.progress));
  if (worker?.capacity) item.append(bar("Slots taken", worker.active / worker.capacity));
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
  const line = make("p", { className: "hint", textContent: `GPU ${id}: ${lines.join(" · ") || "it does not tell"}` });
  return memory.total ? [line, bar("GPU memory taken", memory.used / memory.total)] : [line];
}

function hostLine({ utilization_percent: busy, ram_gb: ram }) {
  const memory = `${ram.used.toFixed(1)} of ${ram.total.toFixed(1)} GB of memory`;
  return `This machine: processors ${Math.round(busy)} % busy, ${memory}.`;
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

/** A live region is read aloud whenever it is written to: so only when it says something else. */
function say(element, words) {
  if (element.textContent !== words) element.textContent = words;
}
