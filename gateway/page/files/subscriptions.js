// Who is woken when streams get events: all subscriptions, or one with its cursors.

import { ask } from "./gateway.js";
import { bdi, make, show, since, visible } from "./words.js";

const ROOT = "v1/stream/__ds/subscriptions";
const SHOWN = 1000; // streams of one subscription

export async function subscriptions(main, { id, signal }) {
  if (id) return await one(main, id, signal);
  main.replaceChildren(document.getElementById("subscriptions").content.cloneNode(true));
  const more = main.querySelector(".more");
  let cursor = null;
  const next = async () => {
    const page = await (await ask(cursor ? `${ROOT}?cursor=${encodeURIComponent(cursor)}` : ROOT, { signal })).json();
    cursor = page.next_cursor ?? null;
    main.querySelector("tbody").append(...page.subscriptions.map(row));
    main.querySelector(".empty").hidden = main.querySelector("tbody").childElementCount > 0;
    more.hidden = !cursor;
  };
  more.addEventListener("click", () => next().catch(signal.fail));
  await next();
}

function row(each) {
  return make("tr", {},
    make("td", {}, make("a", { href: `#/subscriptions/${encodeURIComponent(each.id)}` }, bdi(each.id))),
    make("td", { class: each.status === "failed" ? "error" : "", title: each.wake_error ?? "" }, each.status),
    make("td", {}, bdi(each.webhook?.url ?? each.wake_stream ?? "")),
    make("td", {}, bdi(each.pattern ?? "by name")),
    make("td", { title: each.created_at }, since(each.created_at)));
}

async function one(main, id, signal) {
  const { streams, status, ...told } = await (await ask(`${ROOT}/${encodeURIComponent(id)}`, { signal })).json();
  main.replaceChildren(document.getElementById("subscription").content.cloneNode(true));
  main.querySelector(".id").textContent = visible(id);
  main.querySelector(".status").textContent = status;
  main.querySelector(".status").className = status === "failed" ? "error" : "completed";
  main.querySelector("dl").replaceChildren(...Object.entries({ ...told, streams: streams.length }).flatMap(([name, value]) => [
    make("dt", {}, name), make("dd", { class: name === "wake_error" ? "error" : "" }, visible(show(value)))]));
  main.querySelector("tbody").replaceChildren(...streams.slice(0, SHOWN).map((link) => make("tr", {},
    make("td", {}, bdi(link.path)), make("td", {}, link.link_type), make("td", {}, link.acked_offset))));
}
