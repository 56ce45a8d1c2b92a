// Error notice at the top of the page.

import { describeError } from "./advice.js";
import { byId, make } from "./dom.js";

const box = byId("notice");
let countdown = null;

export function clear() {
  clearInterval(countdown);
  box.hidden = true;
  box.replaceChildren();
}

/**
 * Show an error.
 * @param {() => void} [retry]  action of the "Try again" button
 * @returns the result of describeError
 */
export function show(error, retry) {
  const description = describeError(error);
  clear();
  box.dataset.kind = description.waits || description.retryAfter ? "hint" : "error";
  const close = make("button", { type: "button", className: "quiet close", textContent: "Close", onclick: clear });
  box.append(
    make("p", {}, make("strong", { textContent: `${description.title}: ` }), description.detail),
    make("p", { textContent: description.advice }),
  );
  const again = retry && !description.focusKey ? retryButton(retry, description.retryAfter ?? 0) : null;
  box.append(make("div", { className: "actions" }, again, close));
  box.hidden = false;
  box.scrollIntoView({ block: "nearest" }); // on a phone the notice may be scrolled out of view
  return description;
}

const duration = (seconds) =>
  seconds < 120 ? `${seconds} s` : seconds < 7200 ? `${Math.ceil(seconds / 60)} min` : `${Math.ceil(seconds / 3600)} h`;

function retryButton(retry, seconds) {
  const button = make("button", { type: "button", textContent: "Try again" });
  button.onclick = () => {
    clear();
    retry();
  };
  let left = Math.ceil(seconds);
  const tick = () => {
    button.disabled = left > 0;
    button.textContent = left > 0 ? `Try again in ${duration(left)}` : "Try again";
    if (left-- <= 0) clearInterval(countdown);
  };
  tick();
  countdown = setInterval(tick, 1000);
  return button;
}
