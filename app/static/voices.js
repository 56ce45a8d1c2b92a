// The voices there are: to choose from, and to look after.

import { call } from "./api.js";
import { byId, make } from "./dom.js";

const SPEAKERS = 4; // of those that the model has of itself, as many as are offered

const list = byId("voices");
const choice = byId("voice");

/** What is done about a voice: {hear, replace, remove}, each given its id. */
export class Voices {
  #actions;
  #known = new Map(); // id -> what GET /voices/{id} said
  #watcher;

  constructor(actions) {
    this.#actions = actions;
    // What is known of a voice costs a request each, so they are made for those that are seen.
    this.#watcher = new IntersectionObserver((entries) => {
      for (const { isIntersecting, target } of entries) if (isIntersecting) this.#describe(target);
    });
    choice.addEventListener("change", () => this.#mark());
  }

  /** Ask for the list, and show it. Raises what `call` does. */
  async refresh() {
    const ids = await (await call("/voices")).json();
    const focused = list.contains(document.activeElement) ? document.activeElement.dataset.focus : null;
    this.#watcher.disconnect();
    list.replaceChildren(...ids.map((id) => this.#row(id)));
    byId("voices-empty").hidden = ids.length > 0;
    byId("voices-empty").textContent = "None yet. Add one: a few clear seconds are enough.";
    this.#offer(ids);
    if (focused) [...list.querySelectorAll("button")].find((each) => each.dataset.focus === focused)?.focus();
  }

  /** Its recording is another one now. */
  forget(id) {
    this.#known.delete(id);
  }

  choose(id) {
    choice.value = id;
    this.#mark();
  }

  #offer(ids) {
    const before = choice.value;
    const group = (label, names) => make("optgroup", { label }, ...names.map((name) => new Option(name, name)));
    const speakers = Array.from({ length: SPEAKERS }, (_, number) => `speaker_${number}`);
    choice.replaceChildren(
      new Option("Default voice", ""),
      ...(ids.length ? [group("Recorded", ids)] : []),
      group("The model’s own", speakers),
    );
    choice.value = [...choice.options].some((each) => each.value === before) ? before : "";
    this.#mark();
  }

  #mark() {
    for (const row of list.children)
      row.querySelector(".name").setAttribute("aria-pressed", String(row.dataset.voice === choice.value));
  }

  #row(id) {
    const button = (action, words, properties = {}) =>
      make("button", {
        type: "button",
        textContent: words,
        className: "quiet",
        onclick: () => this.#actions[action](id),
        data: { action, focus: `${action} ${id}` },
        attributes: { "aria-label": `${words} ${id}` },
        ...properties,
      });
    const name = make("button", {
      type: "button",
      className: "name",
      textContent: id,
      title: `Speak with ${id}`,
      data: { focus: `name ${id}` },
    });
    name.onclick = () => this.choose(name.getAttribute("aria-pressed") === "true" ? "" : id);
    const about = make("span", { className: "hint about" });
    const row = make(
      "li",
      { data: { voice: id } },
      make("div", { className: "who" }, name, about),
      make(
        "div",
        { className: "deeds" },
        button("hear", "Hear"),
        button("replace", "Replace"),
        button("remove", "Delete"),
      ),
    );
    this.#watcher.observe(row);
    return row;
  }

  async #describe(row) {
    this.#watcher.unobserve(row);
    const id = row.dataset.voice;
    const about = row.querySelector(".about");
    try {
      if (!this.#known.has(id)) this.#known.set(id, await (await call(`/voices/${encodeURIComponent(id)}`)).json());
      const { seconds, has_transcript: transcribed, preloaded } = this.#known.get(id);
      about.textContent = [
        `${seconds.toFixed(1)} s`,
        transcribed ? "with transcript" : "no transcript",
        preloaded ? "came with the service" : null,
      ]
        .filter(Boolean)
        .join(" · ");
      if (preloaded)
        for (const each of row.querySelectorAll("[data-action=replace], [data-action=remove]")) each.remove();
    } catch (error) {
      about.textContent = error.message;
    }
  }
}
