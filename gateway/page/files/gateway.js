// What the page asks of the gateway: requests with the visitor's key, and streams that are followed through everything.

import { follow as followStream } from "./client.js";

export const root = new URL(".", location.href.split("#")[0]); // also under the path prefix of a proxy

let key = null; // of a link that shares one run, which goes before the one that was typed
const KEPT = "run-gateway-key";

export const keys = {
  get: () => key ?? sessionStorage.getItem(KEPT),
  lend: (token) => { key = token; },
  keep: (typed) => { key = null; sessionStorage.setItem(KEPT, typed); },
  forget: () => { key = null; sessionStorage.removeItem(KEPT); },
};

export class Refused extends Error {
  constructor(status, message) {
    super(message);
    this.status = status;
  }
}

export async function ask(path, { method = "GET", body, signal, headers = {} } = {}) {
  const credential = keys.get();
  const response = await fetch(new URL(path, root), {
    method,
    body: body === undefined ? undefined : JSON.stringify(body),
    signal,
    cache: "no-store",
    headers: credential ? { ...headers, authorization: `Bearer ${credential}` } : headers,
  });
  if (response.ok) return response;
  let said = response.statusText;
  try {
    const { error } = await response.json();
    said = [error.message, error.details].filter(Boolean).join(" ");
  } catch {} // a proxy's refusal, which is no JSON
  throw new Refused(response.status, `${response.status} ${said}`);
}

export const streamOf = (run) => `runs/${encodeURIComponent(run)}`;

// Follows a stream until it is closed. `heard(events, offset)` gets each batch once and in order; `state(word)` is told how
// it goes. Throws Refused for what waiting does not mend.
export async function follow(path, { heard, state, signal, offset = "-1" }) {
  const following = followStream(new URL(path, root), {
    offset, signal, token: keys.get(), wait: 0, json: false,
    onEvents: (batches, next) => heard(batches.flatMap(parsed), next),
    onState: (now) => state(now === "live" ? "live" : "reconnecting"),
  });
  await following.done;
  return following.closed ? "closed" : "left";
}

// A batch of a JSON stream is an array; of any other stream it is text, or bytes.
function parsed(data) {
  if (typeof data !== "string") return [`${data.length} bytes`];
  try {
    return [].concat(JSON.parse(data));
  } catch {
    return [data];
  }
}
