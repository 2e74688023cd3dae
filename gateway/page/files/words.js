// Small words: elements, times, sizes. Text that comes from runs is only ever put in as text.

export function make(name, attributes = {}, ...children) {
  const element = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
  element.append(...children);
  return element;
}

export const bdi = (text) => make("bdi", {}, visible(text));

// Characters that would show nothing, or turn the text around them.
export const visible = (text) => text.replace(/[\u0000-\u0008\u000b-\u001f\u007f\u200e\u200f\u202a-\u202e\u2066-\u2069]/g,
  (character) => `\\u${character.charCodeAt(0).toString(16).padStart(4, "0")}`);

export const show = (value) => typeof value === "string" ? value : JSON.stringify(value);

export const clip = (text, most) => text.length > most ? `${text.slice(0, most)}…` : text;

export function span(ms) {
  if (ms < 1000) return `${Math.round(ms)} ms`;
  if (ms < 100_000) return `${(ms / 1000).toFixed(1)} s`;
  if (ms < 6_000_000) return `${Math.round(ms / 60_000)} min`;
  return `${(ms / 3_600_000).toFixed(1)} h`;
}

// The time of day, to the millisecond; of a number that is no time, nothing.
export function clock(at) {
  const time = new Date(at);
  return Number.isNaN(time.getTime()) ? "" : `${time.toLocaleTimeString([], { hourCycle: "h23" })}.${String(time.getMilliseconds()).padStart(3, "0")}`;
}

export function since(time) {
  const ms = Date.now() - Date.parse(time);
  return ms < 172_800_000 ? `${span(Math.max(0, ms))} ago` : new Date(time).toLocaleString();
}

export function size(count) {
  if (count < 1000) return `${count}`;
  return count < 1_000_000 ? `${(count / 1000).toFixed(1)}k` : `${(count / 1_000_000).toFixed(1)}M`;
}
