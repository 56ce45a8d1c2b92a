// Interactive reference: Swagger UI on /openapi.json, with the API key of the web page, of the address or of a form.

import { byId } from "./dom.js";
import { key } from "./key.js";

const query = new URLSearchParams(location.search);
if (query.has("api_key")) key.set(query.get("api_key"), key.remembered);
// Takes the key out of the history and of what is copied. This address is the page's file, which needs no key: `/docs`
// needs one, and could not be loaded again without it.
history.replaceState(null, "", `/static/docs.html${location.hash}`);

/** Sends the key with requests to this service, and with no others. */
function withKey(request) {
  if (new URL(request.url, location.href).origin === location.origin) request.headers["X-API-Key"] = key.value;
  return request;
}

/** Shows the reference, or the form where the key is missing or wrong. */
async function open() {
  const response = await fetch("/openapi.json", { headers: { "X-API-Key": key.value } }).catch(() => null);
  const refused = response?.status === 401;
  byId("unlock").hidden = !refused;
  byId("problem").textContent = response?.ok || (refused && !key.value) ? "" : problem(response);
  if (response?.ok) show(await response.json());
}

function problem(response) {
  if (!response) return "The service is not reachable.";
  return response.status === 401 ? "This key is not valid." : `The service answered with status ${response.status}.`;
}

function show(spec) {
  window.SwaggerUIBundle({
    spec,
    dom_id: "#reference",
    deepLinking: true,
    displayRequestDuration: true,
    filter: true,
    tryItOutEnabled: true,
    validatorUrl: null, // it would send the description to another origin
    requestInterceptor: withKey,
  });
}

byId("unlock").onsubmit = (event) => {
  event.preventDefault();
  key.set(byId("unlock-key").value, key.remembered);
  open();
};
open();
