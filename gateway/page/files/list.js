// The list of runs: filtered by the gateway, looked at again every two seconds while somebody looks.

import { ask } from "./gateway.js";
import { bdi, make, show, since, span } from "./words.js";

const AGAIN = 2000; // milliseconds

export function list(main, { signal, say }) {
  main.replaceChildren(document.getElementById("list").content.cloneNode(true));
  const form = main.querySelector("form");
  const body = main.querySelector("tbody");
  const more = main.querySelector(".more");
  const older = []; // records of pages that were asked for by hand
  let cursor = null;
  let newest = [];
  let timer = 0;

  const query = () => {
    const asked = new URLSearchParams({ limit: 50 });
    for (const name of ["status", "workflowName"]) if (form[name].value) asked.set(name, form[name].value);
    const [name, ...value] = form.metadata.value.split("=");
    if (name && value.length) asked.set(`metadata.${name.trim()}`, value.join("="));
    return asked;
  };

  const draw = () => {
    const known = new Set(newest.map((run) => run.runId));
    const all = [...newest, ...older.filter((run) => !known.has(run.runId))];
    const text = form.text.value;
    const shown = text ? all.filter((run) => run.runId.includes(text)) : all;
    const chosen = document.activeElement?.closest?.("tr")?.dataset.run;
    body.replaceChildren(...shown.map(row));
    if (chosen !== undefined) body.querySelector(`tr[data-run="${CSS.escape(chosen)}"] a`)?.focus();
    main.querySelector(".empty").hidden = shown.length > 0;
    more.hidden = !cursor;
  };

  const look = async () => {
    clearTimeout(timer);
    const asked = query().toString();
    try {
      const page = await (await ask(`runs?${asked}`, { signal })).json();
      if (asked !== query().toString()) return;
      newest = page.runs;
      if (!older.length) cursor = page.nextCursor ?? null;
      draw();
      say("");
    } catch (error) {
      if (signal.aborted) return;
      if (error.status === 401 || error.status === 403) throw error;
      say(`The list cannot be had: ${error.message}`);
    }
    if (!signal.aborted) timer = setTimeout(() => look().catch(signal.fail), AGAIN);
  };

  form.addEventListener("submit", (event) => event.preventDefault());
  form.addEventListener("input", () => {
    older.length = 0;
    cursor = null;
    look().catch(signal.fail);
  });
  form.text.addEventListener("input", draw);
  const further = async () => {
    const asked = query();
    asked.set("cursor", cursor);
    const page = await (await ask(`runs?${asked}`, { signal })).json();
    older.push(...page.runs);
    cursor = page.nextCursor ?? null;
    draw();
  };
  more.addEventListener("click", () => further().catch(signal.fail));
  main.addEventListener("keydown", (event) => {
    if (event.target.matches("input, select")) return;
    const rows = [...body.querySelectorAll("a")];
    const at = rows.indexOf(document.activeElement);
    const step = { ArrowDown: 1, j: 1, ArrowUp: -1, k: -1 }[event.key];
    if (event.key === "/") { event.preventDefault(); form.text.focus(); }
    if (step) { event.preventDefault(); rows[Math.max(0, Math.min(rows.length - 1, at + step))]?.focus(); }
  }, { signal });
  signal.addEventListener("abort", () => clearTimeout(timer));
  return look();
}

function row(run) {
  const link = make("a", { href: `#/runs/${encodeURIComponent(run.runId)}` }, bdi(run.runId));
  const took = run.durationMs ?? Date.now() - Date.parse(run.startedAt);
  const line = make("tr", {},
    make("td", {}, link),
    make("td", {}, make("span", { class: run.status }, run.status), run.cancelRequestedAt ? " (cancel asked)" : ""),
    make("td", {}, bdi(run.workflowName ?? "")),
    make("td", { title: run.startedAt }, since(run.startedAt)),
    make("td", {}, span(took)),
    make("td", {}, bdi(Object.entries(run.metadata ?? {}).map(([name, value]) => `${name}=${show(value)}`).join(" "))));
  line.dataset.run = run.runId;
  return line;
}
