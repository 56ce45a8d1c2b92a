// The tuning parameters of /tts/generate, in plain words. What is left empty is the service's own setting.

import { byId, make } from "./dom.js";

const PARAMETERS = [
  ["synthesis_temperature", "Variety", "0 says it the same way every time; 2 is wild", { min: 0, max: 2, step: 0.05 }],
  ["voice_exaggeration_factor", "Expressiveness", "0 is flat, 0.5 natural, 1 dramatic", { min: 0, max: 1, step: 0.05 }],
  [
    "cfg_guidance_weight",
    "Hold to the text",
    "Above 0 the words count more, at twice the work",
    { min: 0, max: 3, step: 0.1 },
  ],
  ["top_k", "Choices per step", "Fewer is safer, more is livelier", { min: 1, max: 2051, step: 1 }],
  [
    "text_processing_chunk_size",
    "Text at a time",
    "Characters in each piece of a long text",
    { min: 20, max: 1000, step: 1 },
  ],
  [
    "audio_tokens_per_slice",
    "Frames at a time",
    "80 ms each; fewer arrive sooner, more travel better",
    { min: 1, max: 125, step: 1 },
  ],
  [
    "chunk_overlap_method",
    "Between pieces",
    "Carry the voice on, or start each piece anew",
    { options: { full: "Carry on", zero: "Start anew" } },
  ],
  ["crossfade_duration_milliseconds", "Blend pieces over", "Milliseconds", { min: 0, max: 500, step: 1 }],
  ["remove_leading_milliseconds", "Cut from the start", "Milliseconds", { min: 0, max: 600000, step: 1 }],
  ["remove_trailing_milliseconds", "Cut from the end", "Milliseconds", { min: 0, max: 600000, step: 1 }],
  ["max_audio_length_ms", "Stop after", "Milliseconds, whatever is left to say", { min: 80, max: 600000, step: 1 }],
  [
    "seed",
    "Seed",
    "The same one gives the same speech; else by chance",
    { min: 0, max: Number.MAX_SAFE_INTEGER, step: 1 },
  ],
];

export class Tuning {
  #fields = new Map();

  constructor() {
    for (const parameter of PARAMETERS) byId("tuning-fields").append(this.#field(...parameter));
    byId("tuning-reset").onclick = () => this.#empty();
    byId("tuning-fields").addEventListener("input", () => this.#count());
  }

  /** Those that are filled in, by the names of API.md. */
  get parameters() {
    const filled = [...this.#fields].filter(([, field]) => field.value !== "");
    return Object.fromEntries(
      filled.map(([name, field]) => [name, field.type === "number" ? field.valueAsNumber : field.value]),
    );
  }

  /** Keep a seed for the next time. */
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
          ...Object.entries({ "": "As set", ...options }).map(([value, text]) => new Option(text, value)),
        )
      : make("input", { ...common, type: "number", placeholder: "As set", ...range });
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

  #empty() {
    for (const field of this.#fields.values()) field.value = "";
    this.#count();
  }

  #count() {
    const changed = Object.keys(this.parameters).length;
    byId("tuning-count").textContent = changed ? `${changed} changed` : "";
  }
}
