// Which view is shown: the list, or one run, by the address behind the #.

import { ask, keys } from "./gateway.js";
import { list } from "./list.js";
import { run } from "./run.js";
import { visible } from "./words.js";

const main = document.getElementById("main");
const STATE = 5000; // milliseconds between looks at the Machine
let leaving = new AbortController();

const say = (words) => { document.getElementById("said").textContent = words; };

async function sure(question) {
  const dialog = document.getElementById("sure");
  dialog.querySelector("p").textContent = question;
  dialog.showModal();
  return await new Promise((resolve) => {
    dialog.querySelector("form").onsubmit = (event) => resolve(event.submitter?.value === "yes");
    dialog.oncancel = () => resolve(false); // Esc
  });
}

function askForKey(why) {
  leaving.abort();
  main.replaceChildren(document.getElementById("ask").content.cloneNode(true));
  const form = main.querySelector("form");
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    keys.keep(form.key.value.trim());
    route();
  });
  form.key.focus();
  say(why);
}

function failed(error, signal) {
  if (signal.aborted && signal !== leaving.signal) return;
  if (error.status === 401) {
    const known = keys.get() !== null;
    keys.forget();
    askForKey(known ? "The key is not valid, or not any more: another one is needed." : "");
  } else if (error.status === 404 || error.status === 410) {
    say("There is no such run, or none any more.");
  } else {
    say(error.message);
  }
}

async function route() {
  leaving.abort();
  const own = leaving = new AbortController();
  own.signal.fail = (error) => failed(error, own.signal);
  const [, view, id, token] = location.hash.split("/");
  const shared = view === "shared";
  keys.lend(shared ? token : null);
  document.getElementById("home").hidden = shared;
  document.getElementById("leave").hidden = shared || keys.get() === null;
  say("");
  main.focus();
  try {
    if (id && (shared || view === "runs")) {
      const name = decodeURIComponent(id);
      document.getElementById("place").textContent = visible(name);
      document.title = visible(name);
      await run(main, { id: name, shared, signal: own.signal, say, sure });
    } else {
      document.getElementById("place").textContent = "";
      document.title = "Runs";
      await list(main, { signal: own.signal, say });
    }
  } catch (error) {
    failed(error, own.signal);
  }
}

async function state() {
  const place = document.getElementById("machine");
  try {
    const response = await fetch(new URL("ready", new URL(".", location.href.split("#")[0])), { cache: "no-store" });
    const ready = await response.json();
    const words = [response.headers.get("gateway-machine"), ready.draining ? "draining" : null,
      ready.database === false ? "without its database" : "ready", ready.news === "polling" ? "polls" : null];
    place.textContent = words.filter(Boolean).join(", ");
    place.className = response.ok ? "" : "bad";
  } catch {
    place.textContent = "no Machine answers";
    place.className = "bad";
  }
  setTimeout(state, STATE);
}

document.getElementById("leave").addEventListener("click", () => { keys.forget(); location.hash = "#/"; route(); });
addEventListener("keydown", (event) => {
  if (event.key === "Escape" && location.hash.startsWith("#/runs/") && !document.querySelector("dialog[open]")) location.hash = "#/";
});
addEventListener("hashchange", route);
route();
state();
