// What the page asks of the gateway: requests with the visitor's key, and streams that are followed through everything.

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

const pause = (ms, signal) => new Promise((resolve) => {
  const timer = setTimeout(resolve, ms);
  signal.addEventListener("abort", () => { clearTimeout(timer); resolve(); }, { once: true });
});

// Follows a stream of JSON until it is closed. `heard(events, offset)` gets each batch once and in order; `state(words)`
// is told how it goes. A position moves only with a control frame that came whole, so whatever cuts the connection,
// the next one, at whichever Machine, goes on behind the last batch. Throws Refused for what waiting does not mend.
export async function follow(path, { heard, state, signal, offset = "-1" }) {
  let failures = 0;
  while (!signal.aborted) {
    let pending = []; // the events of data frames whose control frame has not come
    try {
      const response = await ask(`${path}?offset=${encodeURIComponent(offset)}&live=sse`, { signal });
      state("live");
      for await (const { event, data } of frames(response.body, signal)) {
        failures = 0;
        if (event === "data") {
          for (const each of parsed(data)) pending.push(each);
        } else if (event === "control") {
          const control = JSON.parse(data);
          offset = control.streamNextOffset;
          heard(pending, offset);
          pending = [];
          if (control.streamClosed) return "closed";
        }
      }
    } catch (error) {
      if (signal.aborted) return "left";
      if (error instanceof Refused && ![408, 425, 429, 500, 502, 503, 504].includes(error.status)) throw error;
      failures += 1;
      state("reconnecting");
    }
    await pause(failures ? Math.min(5000, 100 * 2 ** failures) * (0.5 + Math.random() / 2) : 0, signal);
  }
  return "left";
}

// A batch of a JSON stream is an array; of any other stream it is text, or base64.
function parsed(data) {
  try {
    return [].concat(JSON.parse(data));
  } catch {
    return [data];
  }
}

// The frames of an event stream (https://html.spec.whatwg.org/multipage/server-sent-events.html).
async function* frames(body, signal) {
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  try {
    while (!signal.aborted) {
      const { value, done } = await reader.read();
      if (done) return;
      const parts = (rest + value).split("\n\n");
      rest = parts.pop();
      for (const part of parts) {
        const frame = { event: "message", data: "" };
        for (const line of part.split("\n")) {
          if (line.startsWith("event:")) frame.event = line.slice(6).trim();
          else if (line.startsWith("data:")) frame.data += line.slice(5).replace(/^ /, "");
        }
        if (frame.data) yield frame;
      }
    }
  } finally {
    reader.cancel().catch(() => {});
  }
}
