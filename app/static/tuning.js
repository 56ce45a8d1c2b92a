// Form for the tuning parameters of /tts/generate. Empty fields have the service's defaults.

import { byId, make } from "./dom.js";

const PARAMETERS = [
  ["synthesis_temperature", "Temperature", "0 is the same every time; 2 is very random", { min: 0, max: 2, step: 0.05 }],
  ["voice_exaggeration_factor", "Expressiveness", "0 is flat, 0.5 natural, 1 dramatic", { min: 0, max: 1, step: 0.05 }],
  [
    "cfg_guidance_weight",
    "Guidance",
    "Higher follows the text more closely; above 0 takes two slots",
    { min: 0, max: 3, step: 0.1 },
  ],
  ["top_k", "Top k", "Fewer choices per step are safer, more are livelier", { min: 1, max: 2051, step: 1 }],
  [
    "text_processing_chunk_size",
    "Chunk size",
    "Maximum characters of a text chunk",
    { min: 20, max: 1000, step: 1 },
  ],
  [
    "audio_tokens_per_slice",
    "Slice size",
    "Frames of 80 ms per slice; fewer arrive sooner",
    { min: 1, max: 125, step: 1 },
  ],
  [
    "chunk_overlap_method",
    "Chunk overlap",
    "Whether the voice carries on across chunks",
    { options: { full: "Full", zero: "Zero" } },
  ],
  ["crossfade_duration_milliseconds", "Crossfade", "Milliseconds between chunks", { min: 0, max: 500, step: 1 }],
  ["remove_leading_milliseconds", "Trim the start", "Milliseconds", { min: 0, max: 600000, step: 1 }],
  ["remove_trailing_milliseconds", "Trim the end", "Milliseconds", { min: 0, max: 600000, step: 1 }],
  ["max_audio_length_ms", "Maximum length", "Milliseconds, from 80; 0 is no limit", { min: 0, max: 600000, step: 1 }],
  [
    "seed",
    "Seed",
    "The same seed gives the same speech; empty is random",
    { min: 0, max: Number.MAX_SAFE_INTEGER, step: 1 },
  ],
];

export class Tuning {
  #fields = new Map();

  constructor() {
    for (const parameter of PARAMETERS) byId("tuning-fields").append(this.#field(...parameter));
    byId("tuning-reset").onclick = () => this.#clear();
    byId("tuning-fields").addEventListener("input", () => this.#count());
  }

  /** The filled-in parameters by name. */
  get parameters() {
    const filled = [...this.#fields].filter(([, field]) => field.value !== "");
    return Object.fromEntries(
      filled.map(([name, field]) => [name, field.type === "number" ? field.valueAsNumber : field.value]),
    );
  }

  /** Fill in a seed for the next request. */
  keepSeed(seed) {
    this.#fields.get("seed").value = seed;
    byId("tuning").open = true;
    this.#count();
  }

  #field(name, label, hint, { options, ...range }) {
    const id = `tune-${name}`;
    const common = { id, attributes: { "aria-describedby": `${id}-hint` } };
    const field = options
      ? make(
          "select",
          common,
          ...Object.entries({ "": "Default", ...options }).map(([value, text]) => new Option(text, value)),
        )
      : make("input", { ...common, type: "number", placeholder: "Default", ...range });
    field.title = name;
    this.#fields.set(name, field);
    return make(
      "div",
      { className: "field" },
      make("label", { htmlFor: id, textContent: label }),
      field,
      make("p", { id: `${id}-hint`, className: "hint", textContent: hint }),
    );
  }

  #clear() {
    for (const field of this.#fields.values()) field.value = "";
    this.#count();
  }

  #count() {
    const changed = Object.keys(this.parameters).length;
    byId("tuning-count").textContent = changed ? `${changed} changed` : "";
  }
}
