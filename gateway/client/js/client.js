// Runs from JavaScript, in a browser or in Node: `follow` reads one, `record` and `Run` write one. No dependency, no build.
//
// Law: an event is handed over once and in order, whatever is killed or cut between here and the log; what `flush` or the
// end of `record` has acknowledged is in the log once. What cannot be had by waiting is an error that says why.
//
// It speaks the Durable Streams protocol (github.com/durable-streams/durable-streams) and, for `Run`, `POST /runs`.

const PASSING = [408, 425, 429, 500, 502, 503, 504]; // statuses that waiting mends
const STALE = 10_000; // milliseconds: an open read has been silent for longer than the gateway's heartbeats let it
const ATTEMPT = 30_000; // milliseconds that one request of a Run may take
const AHEAD = 1 << 20; // characters of events that may wait for their answer before `emit` waits as well
const MOST = 1000; // events of one request: a gateway may refuse more than so many at once
const BEAT = 3000; // milliseconds of silence after which a sign of life is sent, which also learns of a cancel

/** The gateway's answer was no, and asking again would not change it. */
export class Refused extends Error {
  constructor(message, { status, type, details, offset } = {}) {
    super(message);
    Object.assign(this, { name: "Refused", status, type, details, offset });
  }
}

/** Nobody answered for as long as the caller was ready to wait. */
export class GaveUp extends Error {
  name = "GaveUp";
}

/** Somebody has asked for the run to stop. */
export class RunCancelled extends Error {
  name = "RunCancelled";
}

/** Another process writes the run now, or its lease has run out. */
export class RunLost extends Error {
  name = "RunLost";
}

/** Follows a stream until it is closed. See client.d.ts. */
export function follow(url, options = {}) {
  return new Following(url, options);
}

/** Follows many streams of one gateway over one connection. See client.d.ts. */
export function followMany(url, streams, options = {}) {
  return new FollowingMany(url, streams, options);
}

/** Follows a list of runs. See client.d.ts. */
export function followRuns(url, options = {}) {
  return new FollowingRuns(url, options);
}

class Following {
  #options;
  #url;
  #cursor;

  constructor(url, options) {
    this.#url = absolute(url);
    this.#options = { json: true, wait: 60, silence: 30, ...options };
    this.offset = String(options.offset ?? "-1");
    this.closed = false;
    this.done = options.onEvent || options.onEvents ? this.#push() : null;
  }

  async *[Symbol.asyncIterator]() {
    for await (const { events } of this.batches()) yield* events;
  }

  // A position moves only with a control frame that came whole: whatever cuts the connection, the next one, at whichever
  // Machine, goes on behind the last batch.
  async *batches() {
    let events = [];
    const connect = (wait) => {
      events = [];
      return frames(this.#address(wait), {}, this.#options);
    };
    for await (const { event, data, binary, over } of persist(this.#options, () => this.closed, connect)) {
      if (over) {
        this.closed = true;
      } else if (event === "data") {
        for (const each of this.#parsed(data, binary)) events.push(each);
      } else if (event === "control") {
        const { streamNextOffset: offset, streamCursor, streamClosed = false } = JSON.parse(data);
        if (events.length) yield { events, offset };
        events = [];
        this.offset = offset;
        this.#cursor = streamCursor;
        this.closed = streamClosed;
      }
    }
  }

  async #push() {
    const { onEvent, onEvents } = this.#options;
    for await (const { events, offset } of this.batches()) {
      await onEvents?.(events, offset);
      if (onEvent) for (const event of events) await onEvent(event);
    }
  }

  #address(wait) {
    const url = new URL(this.#url);
    const query = { offset: this.offset, live: "sse", cursor: this.#cursor };
    if (this.#options.tail && this.offset === "-1") query.tail = this.#options.tail;
    if (wait > 0) query.wait = Math.min(20, Math.ceil(wait / 1000));
    for (const [name, value] of Object.entries(query)) if (value !== undefined) url.searchParams.set(name, value);
    return url;
  }

  #parsed(data, binary) {
    if (binary) return [bytes(data)];
    return this.#options.json ? JSON.parse(data) : [data];
  }
}

class FollowingMany {
  #options;
  #url;
  #streams;
  #there = new Set(); // those that have had a word
  #until;
  #looks = 0;
  #pause = null; // before those that are not there yet are asked for again
  #again = new AbortController(); // ends the connection, so that the next one asks for them

  constructor(url, streams, options) {
    this.#url = new URL("/v1/stream?live=sse", absolute(url));
    this.#options = { silence: 30, wait: 60, ...options };
    this.#until = Date.now() + this.#options.wait * 1000;
    this.#streams = new Map(streams.map((each) => (typeof each === "string" ? { stream: each } : each)).map((each) => [each.stream, { ...each }]));
    this.done = options.onPart ? this.#push() : null;
  }

  // Each stream has its own place, which moves with what is told of it: the next connection goes on there.
  async *[Symbol.asyncIterator]() {
    const options = { ...this.#options, wait: 0 };
    for await (const { data = "[]" } of persist(options, () => this.#streams.size === 0, () => this.#connect())) {
      for (const { stream, events, text, base64, streamNextOffset: offset, streamClosed: closed = false, error } of JSON.parse(data)) {
        if (PASSING.includes(error?.status)) continue; // it stays among those that are asked for
        if (error?.status === 404 && !this.#there.has(stream) && Date.now() < this.#until) {
          this.#pause ??= nap(pause(this.#looks++, {}), this.#options.signal).then(() => this.#again.abort());
          continue;
        }
        this.#there.add(stream);
        if (closed || error) this.#streams.delete(stream);
        else if (offset) this.#streams.get(stream).offset = offset;
        const had = events ?? (text !== undefined ? [text] : base64 !== undefined ? [bytes(base64)] : []);
        if (had.length || closed || error) yield { stream, events: had, offset, closed, error };
      }
    }
  }

  async *#connect() {
    await this.#pause; // where none of them is there yet, the answer has ended at once
    this.#pause = null;
    const { signal } = this.#options;
    const again = (this.#again = new AbortController());
    const options = { ...this.#options, signal: signal ? AbortSignal.any([signal, again.signal]) : again.signal };
    try {
      yield* frames(this.#url, { method: "POST", body: JSON.stringify({ streams: [...this.#streams.values()] }) }, options);
    } catch (error) {
      if (!again.signal.aborted) throw error;
    }
  }

  async #push() {
    for await (const part of this) await this.#options.onPart(part);
  }
}

class FollowingRuns {
  #options;
  #url;

  constructor(url, options) {
    this.#url = absolute(url);
    this.#url.searchParams.set("live", "sse");
    this.#options = { silence: 30, ...options, wait: 0 };
    this.id = options.id;
    this.done = options.onList || options.onChanges ? this.#push() : null;
  }

  // The id of the last frame that came whole is what any Machine goes on from.
  async *[Symbol.asyncIterator]() {
    const connect = () => frames(this.#url, { headers: this.id ? { "last-event-id": this.id } : {} }, this.#options);
    for await (const { id, data } of persist(this.#options, () => false, connect)) {
      if (data !== undefined) yield JSON.parse(data);
      this.id = id ?? this.id;
    }
  }

  async #push() {
    const { onList, onChanges } = this.#options;
    for await (const { list, nextCursor = null, changes } of this) {
      if (list) await onList?.(list, nextCursor);
      else await onChanges?.(changes);
    }
  }
}

// What connections bring, one connection after the other, until it is `over()`. `connect(ms)` makes one, which may wait so
// long for a run that is not there yet.
async function* persist(options, over, connect) {
  const { signal, token, wait } = options;
  const tell = teller(options);
  const until = Date.now() + wait * 1000;
  let there = false;
  let renewed = false;
  let failures = 0;
  while (!over() && !signal?.aborted) {
    let trouble = new GaveUp("the answer has ended at once");
    try {
      for await (const frame of connect(there ? 0 : until - Date.now())) {
        tell("live");
        there = true;
        renewed = false;
        failures = 0;
        trouble = null;
        yield frame;
        if (over()) return;
      }
    } catch (error) {
      if (signal?.aborted) return;
      const renews = error.status === 401 && typeof token === "function" && !renewed;
      const comes = error.status === 404 && !there && Date.now() < until;
      if (!renews && !comes && !passes(error)) throw error;
      renewed ||= renews;
      trouble = error;
    }
    if (trouble === null) continue; // a clean end is how a Machine asks to be asked again
    tell("waiting", trouble);
    await nap(pause(failures++, trouble), signal);
  }
}

// The frames of one event stream (https://html.spec.whatwg.org/multipage/server-sent-events.html). `over`: there is none,
// nor will there be.
async function* frames(url, init, { token, silence, signal, fetch = globalThis.fetch }) {
  const watch = new Watch(silence * 1000, signal);
  try {
    const headers = { ...init.headers, ...(await credential(token)) };
    const response = await fetch(url, { ...init, headers, signal: watch.signal, cache: "no-store" });
    if (response.status === 204) yield { over: true };
    if (response.status === 204) return;
    if (response.status !== 200) throw await refusal(response);
    if (!response.headers.get("content-type")?.startsWith("text/event-stream")) {
      throw new Refused(`${plain(url)}: no event stream came back: is this a run gateway?`, { status: 200 });
    }
    const binary = response.headers.get("stream-sse-data-encoding") === "base64";
    const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
    let rest = "";
    for (;;) {
      const { value, done } = await reader.read();
      if (done) return;
      watch.heard();
      rest += value;
      if (!value.includes("\n")) continue; // of a large event, which is not looked through again with each piece
      const parts = rest.split("\n\n");
      rest = parts.pop();
      for (const part of parts) {
        let event = "message";
        let id;
        const data = [];
        for (const line of part.split("\n")) {
          if (line.startsWith("id:")) id = line.slice(3).trim();
          else if (line.startsWith("event:")) event = line.slice(6).trim();
          else if (line.startsWith("data:")) data.push(line.slice(line[5] === " " ? 6 : 5));
        }
        if (data.length) yield { event, id, data: data.join("\n"), binary };
        else if (id !== undefined) yield { event, id };
      }
    }
  } finally {
    watch.end();
  }
}

// Ends a connection from which nothing comes any more without anybody saying so: the network is another one, or the laptop
// was closed. It looks at once when the page is shown again, and lets go when there is a network again.
class Watch {
  #controller = new AbortController();
  #heard = Date.now();
  #silence;
  #signal;
  #timer;

  constructor(silence, signal) {
    this.#silence = silence;
    this.#signal = signal;
    this.#timer = setInterval(this.#look, silence / 4);
    signal?.addEventListener("abort", this.#look);
    for (const [target, type] of woken()) target.addEventListener(type, this.#look);
    this.#look();
  }

  get signal() {
    return this.#controller.signal;
  }

  heard() {
    this.#heard = Date.now();
  }

  #look = (event) => {
    const most = event ? Math.min(STALE, this.#silence) : this.#silence;
    if (this.#signal?.aborted) this.#controller.abort(this.#signal.reason);
    else if (event?.type === "online" || Date.now() - this.#heard > most) this.#controller.abort(new GaveUp("nothing came any more"));
  };

  end() {
    clearInterval(this.#timer);
    this.#signal?.removeEventListener("abort", this.#look);
    for (const [target, type] of woken()) target.removeEventListener(type, this.#look);
    this.#controller.abort();
  }
}

/** Records what `agent(run)` does as a run, and ends it as the agent ends. See client.d.ts. */
export async function record(url, options, agent) {
  const run = await Run.start(url, options);
  try {
    run.result = (await agent(run)) ?? run.result;
    run.signal.throwIfAborted(); // an agent that was told to stop may have returned
  } catch (error) {
    throw await run.fail(error);
  }
  await run.end();
  return run.result;
}

/** A run while its agent writes it. See client.d.ts. */
export class Run {
  result = undefined;
  coordinates = null;
  #options;
  #url;
  #tell;
  #epoch = Date.now(); // later than that of any earlier process that wrote this run
  #seq = 0;
  #waiting = [];
  #size = 0; // characters whose answer has not come
  #ending = false;
  #stop = new AbortController();
  #failure = null;
  #news = () => {};
  #room = [];
  #work = null;

  static async start(url, options = {}) {
    const run = new Run(url, options);
    await run.#begin();
    return run;
  }

  constructor(url, options) {
    this.#url = absolute(url);
    if (!/\/runs\/[^/]+$/.test(this.#url.pathname)) throw new TypeError(`${url}: the address of a run ends in /runs/<id>`);
    this.#options = { lease: 30, producer: "agent", patience: 300, contact: 10, ...options };
    this.#tell = teller(options);
  }

  get signal() {
    return this.#stop.signal;
  }

  emit(event) {
    const text = JSON.stringify(event);
    if (text === undefined) throw new TypeError("JSON has no text for this event");
    this.signal.throwIfAborted();
    if (this.#ending) throw new TypeError("the run has been ended");
    this.#waiting.push(text);
    this.#size += text.length;
    this.#news();
    const room = this.#atMost(AHEAD);
    room.catch(() => {}); // who does not await it hears of it at the end
    return room;
  }

  flush() {
    return this.#atMost(0);
  }

  async end(result = this.result) {
    await this.#close({ type: "run_end", isError: false, result });
  }

  async fail(error) {
    const why = this.signal.aborted ? this.signal.reason : error; // what the agent was waiting for says only "aborted"
    const { name = "Error", message = String(why) } = why ?? {};
    const ending = why instanceof RunCancelled ? { isError: false, status: "cancelled", result: this.result } : { isError: true, error: { name, message } };
    await this.#close({ type: "run_end", ...ending }).catch(() => {});
    return why;
  }

  async #begin() {
    const { workflow: workflowName, input, metadata, lease, ttl, contact } = this.#options;
    const runs = new URL(this.#url);
    const [, path, id] = /^(.*)\/([^/]+)$/.exec(runs.pathname);
    runs.pathname = path;
    const body = JSON.stringify({ id: decodeURIComponent(id), workflowName, input, metadata, lease: lease ?? undefined, ttl });
    const { response } = await this.#send("POST", runs, { "content-type": "application/json" }, body, contact);
    if (!response.ok) throw await refusal(response);
    this.coordinates = await response.json();
    if (response.status === 200) { // it was there before
      const { response: state } = await this.#send("HEAD", this.#url, {}, undefined, contact);
      if (state.headers.get("stream-closed") === "true") throw new Refused(`${this.#url}: this run has ended`, { status: 409, type: "stream_closed" });
    }
    this.#work = this.#write().catch((error) => {
      this.#failure = error;
      this.#stop.abort(error);
      this.#wake();
    });
  }

  async #write() {
    const beat = Math.min(BEAT, ((this.#options.lease ?? 30) * 1000) / 3);
    const heartbeat = new URL(this.#url);
    heartbeat.pathname += "/heartbeat";
    while (this.#waiting.length || !this.#ending) {
      if (this.#waiting.length) await this.#append();
      else if (!(await this.#newsWithin(beat))) await this.#ask(heartbeat, {});
    }
  }

  async #append() {
    let count = 0;
    let size = 0;
    while (count < this.#waiting.length && count < MOST && size < AHEAD) size += this.#waiting[count++].length;
    await this.#post(`[${this.#waiting.slice(0, count).join(",")}]`, {});
    this.#waiting.splice(0, count);
    this.#size -= size;
    this.#wake();
  }

  async #close(last) {
    if (this.#ending) return;
    this.#ending = true;
    this.#news();
    await this.#work;
    const refused = this.#failure instanceof Refused; // one of the events was; the run itself can be ended
    if (refused) last = { type: "run_end", isError: true, error: { name: this.#failure.name, message: this.#failure.message } };
    if (refused || !this.#failure) await this.#post(JSON.stringify([last]), { "stream-closed": "true" });
    if (this.#failure) throw this.#failure;
  }

  async #post(body, more) {
    await this.#ask(this.#url, { "content-type": "application/json", "producer-seq": String(this.#seq), ...more }, body);
    this.#seq += 1;
  }

  // A request of an idempotent producer (protocol §5.2.1): it may be sent again as it is, and counts once.
  async #ask(url, more, body) {
    for (;;) {
      const named = { "producer-id": this.#options.producer, "producer-epoch": String(this.#epoch), ...more };
      const { response, doubtful } = await this.#send("POST", url, named, body, this.#options.patience);
      const { status, headers } = response;
      if (headers.get("run-cancel-requested") === "true") this.#stop.abort(new RunCancelled("The run was cancelled."));
      if (status === 403 && headers.has("stream-closed")) throw new RunLost(`${this.#url}: its lease has run out`);
      if (status === 403 && headers.has("producer-epoch")) {
        // Only before anything of ours can have been accepted; later it is we who have been replaced.
        if (this.#seq > 0 || doubtful) throw new RunLost(`${this.#url}: another process writes it now`);
        this.#epoch = Number(headers.get("producer-epoch")) + 1;
      } else if (status !== 200 && status !== 204) {
        throw await refusal(response);
      } else if (Number(headers.get("producer-seq") ?? 0) > this.#seq) {
        throw new RunLost(`${this.#url}: another process writes it as well`);
      } else {
        return;
      }
    }
  }

  // Sends one request until it is answered. `doubtful`: an earlier attempt may have taken effect.
  async #send(method, url, more, body, patience) {
    const { token, fetch = globalThis.fetch } = this.#options;
    const until = Date.now() + patience * 1000;
    let doubtful = false;
    let renewed = false;
    for (let failures = 0; ; failures += 1) {
      let trouble;
      try {
        const headers = { ...more, ...(await credential(token)) };
        const response = await fetch(url, { method, body, headers, signal: AbortSignal.timeout(ATTEMPT) });
        const renews = response.status === 401 && typeof token === "function" && !renewed;
        if (!renews && !PASSING.includes(response.status)) {
          this.#tell("live");
          return { response, doubtful };
        }
        renewed ||= renews;
        trouble = await refusal(response);
        doubtful ||= response.status !== 429 && !renews;
      } catch (error) {
        if (!passes(error)) throw error;
        trouble = error;
        doubtful ||= error.cause?.code !== "ECONNREFUSED";
      }
      this.#tell("waiting", trouble);
      const wait = pause(failures, trouble);
      if (Date.now() + wait > until) throw new GaveUp(`${url}: no answer within ${patience} s: ${said(trouble)}`, { cause: trouble });
      await nap(wait);
    }
  }

  async #atMost(size) {
    while (this.#size > size && !this.#failure) await new Promise((resolve) => this.#room.push(resolve));
    if (this.#failure) throw this.#failure;
  }

  #wake() {
    for (const resolve of this.#room.splice(0)) resolve();
  }

  #newsWithin(ms) {
    return new Promise((resolve) => {
      const timer = setTimeout(resolve, ms, false);
      this.#news = () => {
        clearTimeout(timer);
        resolve(true);
      };
    });
  }
}

/** A `fetch` that sends a request again until it is answered. See client.d.ts. */
export async function persistent(input, init) {
  const until = Date.now() + 300_000;
  for (let failures = 0; ; failures += 1) {
    let trouble = {};
    try {
      const response = await fetch(input, init);
      if (!PASSING.includes(response.status) || Date.now() > until) return response;
      trouble = await refusal(response);
    } catch (error) {
      if (init?.signal?.aborted || Date.now() > until) throw error;
    }
    await nap(pause(failures, trouble), init?.signal);
  }
}

function absolute(url) {
  const base = globalThis.location?.href;
  if (base === undefined && !/^https?:\/\//.test(url)) throw new TypeError(`${url}: an address begins with http:// or https://`);
  return new URL(url, base);
}

const plain = (url) => String(url).split("?")[0];

const bytes = (base64) => Uint8Array.from(atob(base64), (each) => each.charCodeAt(0));

async function credential(token) {
  const shown = typeof token === "function" ? await token() : token;
  return shown ? { authorization: `Bearer ${shown}` } : {};
}

async function refusal(response) {
  const { status, headers, url } = response;
  let error = {};
  try {
    error = (await response.json()).error ?? {};
  } catch {} // a proxy's refusal, which is no JSON
  const words = [error.message, error.details].filter(Boolean).join(" ") || response.statusText;
  const refused = new Refused(`${plain(url)}: ${status} ${words}`, { status, ...error, offset: headers.get("stream-next-offset") });
  refused.retryAfter = Math.min(60, Number(headers.get("retry-after")) || 0) * 1000; // 0: it is not there, or a date
  return refused;
}

// What waiting may mend: no network, no Machine, a connection that was cut (fetch says all of these with a TypeError).
const passes = (error) => error instanceof TypeError || error instanceof GaveUp || error.name === "TimeoutError" || PASSING.includes(error.status);

const pause = (failures, trouble) => (trouble.retryAfter ?? 0) + Math.min(5000, 100 * 2 ** failures) * (0.5 + Math.random() / 2);

const said = (error) => [error.message, error.cause?.message].filter(Boolean).join(": ");

// Tells of each change of state once: "live", or "waiting" and why. Who does not ask is warned on the console.
function teller({ onState = (state, error) => error && console.warn(`run gateway: waiting: ${said(error)}`) }) {
  let last;
  return (state, error) => {
    if (state !== last) onState((last = state), error);
  };
}

// What says that a page may have been asleep, or without a network.
function woken() {
  const { document, addEventListener } = globalThis;
  return document && addEventListener ? [[document, "visibilitychange"], [globalThis, "pageshow"], [globalThis, "online"]] : [];
}

function nap(ms, signal) {
  return new Promise((resolve) => {
    const awake = () => {
      clearTimeout(timer);
      signal?.removeEventListener("abort", awake);
      for (const [target, type] of woken()) target.removeEventListener(type, awake);
      resolve();
    };
    const timer = setTimeout(awake, ms);
    signal?.addEventListener("abort", awake);
    for (const [target, type] of woken()) target.addEventListener(type, awake);
  });
}
