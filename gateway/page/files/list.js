// The list of runs: filtered by the gateway, which tells of each change as long as somebody looks.

import { ask, followRuns } from "./gateway.js";
import { bdi, make, show, since, span } from "./words.js";

const PAGE = 50; // runs that are asked for at once
const FURTHER = 10; // pages that are looked through at once for a text
const MOST = 2000; // runs that are shown: with more the list begins anew
const OFTEN = 100; // milliseconds between two drawings, however many changes come
const CLOCK = 1000; // milliseconds after which times are told anew

export function list(main, { signal, say }) {
  main.replaceChildren(document.getElementById("list").content.cloneNode(true));
  const form = main.querySelector("form");
  const body = main.querySelector("tbody");
  const more = main.querySelector(".more");
  const runs = new Map(); // records by id
  const rows = new WeakMap(); // of these records
  const removed = new Set(); // ids, of which a page that is under way may still tell
  let following = new AbortController();
  let cursor = null; // of the runs before those that are known
  let drawing = 0;

  const query = () => {
    const asked = new URLSearchParams({ limit: PAGE });
    for (const name of ["status", "workflowName"]) if (form[name].value) asked.set(name, form[name].value);
    const [name, ...value] = form.metadata.value.split("=");
    if (name && value.length) asked.set(`metadata.${name.trim()}`, value.join("="));
    return asked;
  };

  const shown = () => [...runs.values()].filter((run) => run.runId.includes(form.text.value))
    .sort((one, other) => (one.startedAt < other.startedAt ? 1 : one.startedAt > other.startedAt ? -1 : 0));

  const row = (run) => {
    if (!rows.has(run)) rows.set(run, line(run));
    return rows.get(run);
  };

  // Only what differs is touched: whoever stands in a row goes on standing there.
  const draw = () => {
    clearTimeout(drawing);
    drawing = 0;
    const chosen = document.activeElement?.closest?.("tr")?.dataset.run;
    const wanted = shown().map(row);
    const kept = new Set(wanted);
    for (const old of [...body.children]) if (!kept.has(old)) old.remove();
    let at = body.firstElementChild;
    for (const each of wanted) {
      if (each === at) at = at.nextElementSibling;
      else body.insertBefore(each, at);
    }
    if (chosen !== undefined) body.querySelector(`tr[data-run="${CSS.escape(chosen)}"] a`)?.focus();
    const empty = main.querySelector(".empty");
    empty.hidden = wanted.length > 0;
    empty.textContent = cursor && form.text.value ? `None of the newest ${runs.size} is so.` : "No run is so.";
    more.hidden = !cursor;
  };
  const soon = () => { if (!drawing) drawing = setTimeout(draw, OFTEN); };

  const take = ({ change, run }) => {
    const status = form.status.value;
    if (change === "removed") removed.add(run.runId);
    else removed.delete(run.runId);
    if (change === "removed" || (status && run.status !== status)) runs.delete(run.runId);
    else runs.set(run.runId, run);
    if (runs.size > MOST) begin();
    else soon();
  };

  const begin = () => {
    following.abort();
    following = new AbortController();
    followRuns(query(), {
      signal: following.signal,
      listed: (list, next) => {
        runs.clear();
        removed.clear();
        for (const run of list) runs.set(run.runId, run);
        cursor = next;
        draw();
      },
      changed: (changes) => changes.forEach(take),
      state: (word) => say(word === "live" ? "" : "The connection was lost; the list goes on as soon as a Machine answers."),
    }).catch((error) => {
      // What was typed may not be a filter yet: the next letter begins anew.
      if (error.status === 400) say(error.message);
      else signal.fail(error);
    });
  };

  // Older runs; with a text until one has it. What changed meanwhile is known already, and better.
  const further = async () => {
    more.disabled = true;
    const own = following.signal;
    try {
      const had = shown().length;
      for (let page = 0; cursor && page < FURTHER && (!page || (form.text.value && shown().length === had)); page += 1) {
        const asked = query();
        asked.set("cursor", cursor);
        const { runs: older, nextCursor = null } = await (await ask(`runs?${asked}`, { signal: own })).json();
        for (const run of older) if (!runs.has(run.runId) && !removed.has(run.runId)) runs.set(run.runId, run);
        cursor = nextCursor;
      }
      draw();
    } catch (error) {
      if (!own.aborted) throw error;
    } finally {
      more.disabled = false;
    }
  };

  form.addEventListener("submit", (event) => event.preventDefault());
  form.text.addEventListener("keydown", ({ key }) => {
    if (key === "Enter" && form.text.value) location.hash = `#/runs/${encodeURIComponent(form.text.value)}`;
  });
  for (const name of ["status", "workflowName", "metadata"]) form[name].addEventListener("input", begin);
  form.text.addEventListener("input", draw);
  more.addEventListener("click", () => further().catch(signal.fail));
  main.addEventListener("keydown", (event) => {
    if (event.target.matches("input, select")) return;
    const links = [...body.querySelectorAll("a")];
    const at = links.indexOf(document.activeElement);
    const step = { ArrowDown: 1, j: 1, ArrowUp: -1, k: -1 }[event.key];
    if (event.key === "/") { event.preventDefault(); form.text.focus(); }
    if (step) { event.preventDefault(); links[Math.max(0, Math.min(links.length - 1, at + step))]?.focus(); }
  }, { signal });
  const clock = setInterval(() => { for (const run of runs.values()) rows.get(run)?.tell(); }, CLOCK);
  signal.addEventListener("abort", () => {
    following.abort();
    clearTimeout(drawing);
    clearInterval(clock);
  });
  begin();
}

function line(run) {
  const link = make("a", { href: `#/runs/${encodeURIComponent(run.runId)}` }, bdi(run.runId));
  const began = make("td", { title: run.startedAt });
  const took = make("td");
  const row = make("tr", {},
    make("td", {}, link),
    make("td", {}, make("span", { class: run.status }, run.status), run.cancelRequestedAt && run.status === "active" ? " (cancel asked)" : ""),
    make("td", {}, bdi(run.workflowName ?? "")),
    began, took,
    make("td", {}, bdi(Object.entries(run.metadata ?? {}).map(([name, value]) => `${name}=${show(value)}`).join(" "))));
  row.dataset.run = run.runId;
  row.tell = () => {
    if (row.isConnected || !began.textContent) {
      began.textContent = since(run.startedAt);
      took.textContent = span(run.durationMs ?? Math.max(0, Date.now() - Date.parse(run.startedAt)));
    }
  };
  row.tell();
  return row;
}
