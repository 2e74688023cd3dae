// What the page asks of the gateway: requests with the visitor's key, and streams and lists that are followed through everything.

import { follow as followStream, followRuns as followList } from "./client.js";
import { elements } from "./json.js";

export const root = new URL(".", location.href.split("#")[0]); // also under the path prefix of a proxy

let lent = null; // of a link that shares one run, which goes before the one that was typed
const KEPT = "run-gateway-key";

export const keys = {
  get: () => lent ?? sessionStorage.getItem(KEPT),
  lend: (token) => { lent = token; },
  keep: (typed) => { lent = null; sessionStorage.setItem(KEPT, typed); },
  forget: () => {
    if (lent === null) sessionStorage.removeItem(KEPT);
    lent = null;
  },
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

// Follows a stream until it is closed. `heard(texts, offset)` gets each batch once and in order, each event as it is written;
// `state(word)` is told how it goes. Throws Refused for what waiting does not mend.
export async function follow(path, { heard, state, signal, offset = "-1" }) {
  let closed = false;
  await whileSeen(signal, async (seen) => {
    const following = followStream(new URL(path, root), {
      offset, signal: seen, token: keys.get(), wait: 0, json: false, onState: told(state),
      onEvents: (batches, next) => {
        heard(batches.flatMap(parts), next);
        offset = next;
      },
    });
    await following.done;
    closed = following.closed;
    return closed;
  });
  return closed ? "closed" : "left";
}

// Follows a list of runs: `listed(runs, cursor)` as it is, whenever it begins anew, and `changed(changes)` what happens then.
export async function followRuns(query, { listed, changed, state, signal }) {
  let id;
  await whileSeen(signal, async (seen) => {
    const following = followList(new URL(`runs?${query}`, root), {
      id, signal: seen, token: keys.get(), onState: told(state), onList: listed, onChanges: changed,
    });
    await following.done;
    id = following.id;
  });
}

const told = (state) => (now) => state(now === "live" ? "live" : "reconnecting");

// A browser has six connections to a host: a tab that nobody sees lets go of its own, and goes on when it is seen again.
async function whileSeen(signal, work) {
  for (let done = false; !done && !signal.aborted;) {
    const own = new AbortController();
    const leave = () => { if (document.hidden || signal.aborted) own.abort(); };
    const left = new AbortController();
    document.addEventListener("visibilitychange", leave, { signal: left.signal });
    signal.addEventListener("abort", leave, { signal: left.signal });
    try {
      if (document.hidden) await shownAgain(signal);
      else done = await work(own.signal);
    } finally {
      left.abort();
    }
  }
}

const shownAgain = (signal) => new Promise((resolve) => {
  document.addEventListener("visibilitychange", resolve, { once: true });
  signal.addEventListener("abort", resolve, { once: true });
});

// A batch of a JSON stream is an array; of any other stream it is text, or bytes.
function parts(data) {
  if (typeof data !== "string") return [JSON.stringify(`${data.length} bytes`)];
  try {
    JSON.parse(data);
    return elements(data);
  } catch {
    return [JSON.stringify(data)];
  }
}
