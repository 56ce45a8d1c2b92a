// Interactive reference: Swagger UI on /openapi.json, with the API key of the web page or of the address.

import { key } from "./key.js";

const query = new URLSearchParams(location.search);
if (query.has("api_key")) {
  key.set(query.get("api_key"), key.remembered);
  history.replaceState(null, "", location.pathname + location.hash); // out of the history, and of what is copied
}

/** Sends the key with requests to this service, and with no others. */
function withKey(request) {
  if (new URL(request.url, location.href).origin === location.origin) request.headers["X-API-Key"] = key.value;
  return request;
}

window.SwaggerUIBundle({
  url: "/openapi.json",
  dom_id: "#reference",
  deepLinking: true,
  displayRequestDuration: true,
  filter: true,
  tryItOutEnabled: true,
  validatorUrl: null, // it would send the description to another origin
  requestInterceptor: withKey,
});
