// The Machines that have answered this page: how each is, and what it does, where the key may know that.

import { ask, root } from "./gateway.js";
import { make, size } from "./words.js";

const AGAIN = 5000; // milliseconds between two looks
const SILENT = 60_000; // milliseconds after which a Machine that answers no more is forgotten
const PREFIX = "run_gateway_";
const SHOWN = [ // a column: its words, its metric, the labels that count, and whether its rate is meant
  ["SSE readers", "readers", 'mode="sse"'],
  ["long-polls", "readers", 'mode="long_poll"'],
  ["streams followed", "tails"],
  ["events/s", "appended_events_total", "", true],
  ["frames/s", "deliveries_total", "", true],
  ["pages/s", "log_reads_total", "", true],
  ["refused/s", "refusals_total", "", true],
  ["recordings", "recordings"],
  ["runs lost", "lost_runs_total"],
];

export function machines(place) {
  const known = new Map(); // by name: { state, seen, numbers, at, rates }
  const summary = place.querySelector("summary");

  const look = async () => {
    try {
      const response = await fetch(new URL("ready", root), { cache: "no-store" });
      const ready = await response.json();
      const name = ready.machine;
      const state = [ready.draining ? "draining" : null, ready.database === false ? "without its database" : "ready",
        ready.news === "polling" ? "polls" : null].filter(Boolean).join(", ");
      known.set(name, { ...known.get(name), state, seen: Date.now() });
      summary.textContent = `${name}, ${state}`;
      summary.className = response.ok ? "" : "bad";
      if (place.open) await measure();
    } catch {
      summary.textContent = "no Machine answers";
      summary.className = "bad";
    }
    for (const [name, { seen }] of known) if (Date.now() - seen > SILENT) known.delete(name);
    if (place.open) draw();
  };

  const measure = async () => {
    let response;
    try {
      response = await ask("metrics", { headers: { accept: "text/plain" } });
    } catch (error) {
      if (error.status === undefined) throw error;
      return; // this key may not see them
    }
    const numbers = parse(await response.text());
    const name = response.headers.get("gateway-machine") ?? numbers.find(([metric]) => metric === "machine_info")?.[1].match(/machine="([^"]+)"/)?.[1];
    const at = Date.now();
    const before = known.get(name);
    const rates = before?.numbers && SHOWN.map(([, metric, labels, rate]) => rate
      ? Math.max(0, sum(numbers, metric, labels) - sum(before.numbers, metric, labels)) * 1000 / Math.max(1, at - before.at) : 0);
    known.set(name, { state: "ready", ...before, numbers, at, rates, seen: at });
  };

  const draw = () => {
    const cells = ({ numbers, rates }) => SHOWN.map(([, metric, labels, rate], index) => {
      if (!numbers || (rate && !rates)) return "";
      return size(Math.round(rate ? rates[index] : sum(numbers, metric, labels)));
    });
    place.querySelector("div").replaceChildren(make("table", {},
      make("thead", {}, make("tr", {}, ...["Machine", "state", ...SHOWN.map(([words]) => words)].map((words) => make("th", {}, words)))),
      make("tbody", {}, ...[...known].map(([name, machine]) => make("tr", {},
        ...[name, machine.state, ...cells(machine)].map((words) => make("td", {}, words)))))));
  };

  const again = async () => {
    if (!document.hidden) await look();
    setTimeout(again, AGAIN);
  };
  place.addEventListener("toggle", () => { if (place.open) look(); });
  again();
}

// The samples of a scrape: [name, labels, value]. Workers of one Machine are added up.
export const parse = (text) => [...text.matchAll(/^(\w+)(?:\{(.*)\})? ([^ \n]+)/gm)]
  .filter(([, name]) => name.startsWith(PREFIX)).map(([, name, labels, value]) => [name.slice(PREFIX.length), labels ?? "", Number(value)]);

const sum = (numbers, metric, labels = "") => numbers
  .filter(([name, has]) => name === metric && has.includes(labels)).reduce((all, [, , value]) => all + value, 0);
