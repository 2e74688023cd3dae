// One run: its record, its events as they come, and what can be done with it.

import { ask, follow, keys, root, streamOf } from "./gateway.js";
import { Calls, Row } from "./events.js";
import { elements, pretty } from "./json.js";
import { bdi, clip, clock, make, show, since, size, span, visible } from "./words.js";

const ROW = 24; // pixels, as --row in the style
const SPARE = 10; // rows that are drawn above and below what is seen
const RAW = 100_000; // characters of an event that are shown
const HOUR = 3600; // seconds
const AGAIN = 2000; // milliseconds between two looks at the record: of a cancel, say

export async function run(main, { id, shared, signal, say, sure }) {
  main.replaceChildren(document.getElementById("run").content.cloneNode(true));
  const find = (selector) => main.querySelector(selector);
  const stream = streamOf(id);
  const view = new Events(main, signal);
  let record = {};

  find(".id").textContent = visible(id);
  for (const name of [".cancel", ".delete", ".share"]) find(name).hidden = shared;
  find(".control").hidden = shared;

  const look = async () => {
    record = await (await ask(`${stream}?meta`, { signal })).json();
    find(".status").textContent = record.status;
    find(".status").className = `status ${record.status}`;
    find(".cancel").disabled = record.status !== "active" || Boolean(record.cancelRequestedAt);
    const took = record.durationMs ?? Date.now() - Date.parse(record.startedAt);
    const told = Object.entries(record).filter(([name]) => !["runId", "status", "isError", "durationMs"].includes(name));
    find("dl").replaceChildren(...[["took", span(took)], ...told].flatMap(([name, value]) => [
      make("dt", {}, name),
      make("dd", { class: name === "error" ? "error" : "" }, visible(clip(
        name === "startedAt" || name === "endedAt" ? `${value} (${since(value)})` : show(value), 5000))),
    ]));
  };

  const failing = (what, work) => async () => {
    try {
      await work();
    } catch (error) {
      if (!signal.aborted) say(`${what}: ${error.message}`);
    }
  };
  find(".cancel").addEventListener("click", failing("It could not be cancelled", async () => {
    if (!await sure("Ask the producer of this run to stop?")) return;
    await ask(`${stream}/cancel`, { method: "POST", body: { reason: "asked for on the page" } });
    say("The producer is asked to stop.");
    await look();
  }));
  find(".delete").addEventListener("click", failing("It could not be deleted", async () => {
    if (!await sure("Delete this run, with all of its events?")) return;
    await ask(stream, { method: "DELETE" });
    location.hash = "#/";
  }));
  find(".share").addEventListener("click", failing("It cannot be shared", async () => {
    const { token } = await (await ask(`${stream}/token`, { method: "POST", body: { ttl: HOUR } })).json();
    const link = new URL(`ui#/shared/${encodeURIComponent(id)}/${token}`, root);
    find(".link").hidden = false;
    find(".link input").value = link;
    find(".link input").select();
    say("Whoever has this link sees this run for an hour, and nothing else.");
  }));
  find(".save").addEventListener("click", failing("It could not be downloaded", async () => {
    const lines = await whole(stream, signal);
    const link = make("a", { download: `${id}.ndjson`, href: URL.createObjectURL(new Blob(lines, { type: "application/x-ndjson" })) });
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 60_000);
  }));
  find(".control").addEventListener("toggle", failing("The control stream cannot be read", async () => {
    if (!find(".control").open) return;
    const events = await (await ask(`${stream}/control?offset=-1`, { signal })).json();
    find(".control pre").textContent = events.map((event) => visible(JSON.stringify(event))).join("\n") || "Nothing yet.";
  }));

  await look();
  const again = setInterval(() => { if (!document.hidden && record.status === "active") look().catch(() => {}); }, AGAIN);
  signal.addEventListener("abort", () => clearInterval(again));
  const end = await follow(stream, {
    signal,
    heard: (texts, offset) => view.add(texts, offset),
    state: (word) => say(word === "live" ? "" : "The connection was lost; it goes on where it was as soon as a Machine answers."),
  });
  if (end === "closed") {
    await look();
    view.ended();
    say("The run has ended.");
  }
}

async function whole(stream, signal) {
  const lines = [];
  for (let offset = "-1"; ;) {
    const response = await ask(`${stream}?offset=${encodeURIComponent(offset)}`, { signal });
    for (const event of elements(await response.text())) lines.push(`${event}\n`);
    const next = response.headers.get("stream-next-offset");
    if (response.headers.get("stream-up-to-date") === "true" || next === offset) return lines;
    offset = next;
  }
}

// The list of events. Only the rows that are seen exist, so that it stays quick with hundreds of thousands.
class Events {
  constructor(main, signal) {
    this.find = (selector) => main.querySelector(selector);
    this.window = this.find(".window");
    this.list = this.find(".window ol");
    this.events = [];
    this.rows = [];
    this.calls = new Calls();
    this.folding = true;
    this.following = true;
    this.chosen = -1;
    this.drawing = 0;
    this.window.addEventListener("scroll", () => this.draw(), { signal, passive: true });
    new ResizeObserver(() => this.draw()).observe(this.window);
    this.window.addEventListener("wheel", (event) => { if (event.deltaY < 0) this.follow(false); }, { signal, passive: true });
    this.list.addEventListener("click", (event) => {
      const row = event.target.closest("li");
      if (row) this.choose(Number(row.dataset.row));
    });
    this.window.addEventListener("keydown", (event) => {
      const step = { ArrowDown: 1, j: 1, ArrowUp: -1, k: -1, PageDown: 20, PageUp: -20 }[event.key];
      if (step) { event.preventDefault(); this.choose(this.chosen + step); }
      if (event.key === "End") this.follow(true);
    }, { signal });
    this.find(".follow").addEventListener("click", () => this.follow(!this.following));
    this.find(".fold").addEventListener("click", () => this.fold(!this.folding));
    this.find(".jump").addEventListener("change", (event) => this.jump(Number(event.target.value.split("_").at(-1))));
    this.find(".next").addEventListener("click", () => this.error());
  }

  // Events as they are written, and the offset behind the last of them.
  add(texts, offset) {
    const arrived = Date.now();
    const [epoch, last] = offset.split("_");
    let calls = 0;
    texts.forEach((raw, index) => {
      const event = JSON.parse(raw);
      const number = Number(last) - (texts.length - 1 - index); // of JSON streams, whose offsets count events
      const behind = index === texts.length - 1 ? offset : `${epoch}_${String(number).padStart(last.length, "0")}`;
      this.events.push([raw, arrived, behind]);
      this.put(this.events.length, raw, event, arrived, behind);
      if (this.calls.hear(this.events.length, event, arrived)) calls += 1;
    });
    if (calls) this.waterfall();
    this.draw();
  }

  put(number, raw, event, arrived, offset) {
    const last = this.rows.at(-1);
    if (this.folding && last?.takes(event)) {
      last.add(raw, event, offset);
      return;
    }
    const row = new Row(number, raw, event, arrived, offset);
    if (last) row.gap = Math.max(0, row.at - last.at);
    this.rows.push(row);
    if (row.bad) this.find(".next").hidden = false;
  }

  ended() {
    this.find(".follow").hidden = true;
    this.done = true;
    this.draw();
  }

  fold(on) {
    this.folding = on;
    this.find(".fold").textContent = on ? "Tokens apart" : "Tokens together";
    this.find(".fold").setAttribute("aria-pressed", String(on));
    this.rows = [];
    this.chosen = -1;
    this.events.forEach(([raw, arrived, offset], index) => this.put(index + 1, raw, JSON.parse(raw), arrived, offset));
    this.draw();
  }

  follow(on) {
    this.following = on;
    this.find(".follow").textContent = on ? "Pause" : "Follow";
    this.find(".follow").setAttribute("aria-pressed", String(on));
    this.draw();
  }

  // By its number, or by its offset, whose last part is that number.
  jump(number) {
    const at = this.rows.findIndex((row) => row.last >= number);
    if (at >= 0) this.choose(at);
  }

  error() {
    const bad = (row, index) => row.bad && index > this.chosen;
    const at = this.rows.findIndex(bad);
    this.choose(at >= 0 ? at : this.rows.findIndex((row) => row.bad));
  }

  choose(at) {
    if (!this.rows.length) return;
    this.chosen = Math.max(0, Math.min(this.rows.length - 1, at));
    this.follow(false);
    const top = this.chosen * ROW;
    if (top < this.window.scrollTop) this.window.scrollTop = top;
    if (top + ROW > this.window.scrollTop + this.window.clientHeight) this.window.scrollTop = top + ROW - this.window.clientHeight;
    const row = this.rows[this.chosen];
    const folded = row.last > row.number;
    const raw = folded ? row.text : row.raw.length > RAW ? row.raw : pretty(row.raw);
    const more = raw.length > RAW ? `\n… ${size(raw.length - RAW)} characters more: Download has all of it` : "";
    this.window.setAttribute("aria-activedescendant", `row-${this.chosen}`);
    this.find(".chosen").hidden = false;
    this.find(".chosen dl").replaceChildren(...Object.entries({
      [folded ? "events" : "event"]: folded ? `${row.number} to ${row.last}` : `${row.number}`,
      time: `${clock(row.at)}${row.gap === null ? "" : `, ${span(row.gap)} later`}`,
      offset: row.offset,
      size: `${row.chars} characters`,
    }).flatMap(([name, value]) => [make("dt", {}, name), make("dd", {}, value)]));
    this.find(".raw").textContent = visible(raw.slice(0, RAW)) + more;
    this.draw();
  }

  draw() {
    cancelAnimationFrame(this.drawing);
    this.drawing = requestAnimationFrame(() => this.paint());
  }

  paint() {
    this.find(".height").style.height = `${this.rows.length * ROW}px`;
    if (this.following) this.window.scrollTop = this.rows.length * ROW;
    const top = Math.max(0, Math.floor(this.window.scrollTop / ROW) - SPARE);
    const seen = Math.ceil(this.window.clientHeight / ROW) + 2 * SPARE;
    this.list.style.top = `${top * ROW}px`;
    this.list.replaceChildren(...this.rows.slice(top, top + seen).map((row, index) => this.line(row, top + index)));
    const errors = this.rows.filter((row) => row.bad).length;
    this.find(".count").textContent = `${this.events.length} events${this.done ? ", closed" : ""}${errors ? `, ${errors} of them errors` : ""}`;
  }

  line(row, index) {
    const several = row.last > row.number;
    const place = { "aria-posinset": index + 1, "aria-setsize": this.rows.length, id: `row-${index}` };
    const line = make("li", { role: "option", "aria-selected": String(index === this.chosen), class: row.bad ? "error" : "", ...place },
      make("span", { class: "number" }, several ? `${row.number}–${row.last}` : `${row.number}`),
      make("span", { class: "time" }, clock(row.at)),
      make("span", { class: "gap" }, row.gap === null ? "" : `+${span(row.gap)}`),
      make("span", { class: "kind" }, visible(clip(row.kind, 100))),
      make("span", { class: "size" }, size(row.chars)),
      make("span", { class: "text" }, visible(clip(row.text.replaceAll("\n", "⏎"), 500))));
    line.dataset.row = index;
    return line;
  }

  waterfall() {
    const calls = [...this.calls.all.values()].slice(-200);
    const from = Math.min(...calls.map((call) => call.from));
    const wide = Math.max(1, Math.max(...calls.map((call) => call.to)) - from);
    this.find(".calls").hidden = false;
    this.find(".calls ol").replaceChildren(...calls.map((call) => {
      const bar = make("span", { class: "bar" });
      bar.style.left = `${(call.from - from) / wide * 100}%`;
      bar.style.width = `${(call.to - call.from) / wide * 100}%`;
      return make("li", { class: call.bad ? "error" : "" }, bdi(clip(call.name, 60)), make("span", { class: "lane" }, bar),
        span(call.to - call.from));
    }));
  }
}
