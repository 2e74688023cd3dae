// What an event says, for people: its kind, its time, its text. Events are whatever the agent sends, so all of it is a guess.

import { clip, show } from "./words.js";

const KINDS = ["type", "event", "kind", "name"];
const TEXTS = ["text", "delta", "content", "token", "message", "errorText"];
const TIMES = ["timestamp", "time", "ts", "createdAt", "created_at"];
const CALLS = ["toolCallId", "tool_call_id", "callId", "call_id"];
const FOLDED = 20_000; // characters of a row that joins tokens

const first = (event, names) => names.find((name) => event !== null && typeof event === "object" && name in event);

export const kind = (event) => show(event?.[first(event, KINDS)] ?? "");

export function time(event) {
  const value = event?.[first(event, TIMES)];
  if (typeof value === "number") return value > 1e12 ? value : value * 1000;
  const parsed = typeof value === "string" ? Date.parse(value) : NaN;
  return Number.isNaN(parsed) ? null : parsed;
}

// `raw`: the event as it is written.
export function text(event, raw) {
  const name = first(event, TEXTS);
  return name !== undefined && typeof event[name] === "string" ? event[name] : clip(raw, 2000);
}

export const isError = (event) => event?.isError === true || /error|fail|abort/i.test(kind(event)) || event?.type === "lost";

// One row of the list: an event, or several that follow one another and differ in their text alone. `offset`: behind the last.
export class Row {
  constructor(number, raw, event, arrived, offset) {
    this.number = number;
    this.last = number;
    this.raw = raw;
    this.event = event;
    this.at = time(event) ?? arrived;
    this.kind = kind(event);
    this.bad = isError(event);
    this.text = text(event, raw);
    this.chars = raw.length;
    this.offset = offset;
    this.gap = null; // milliseconds since the row before
  }

  takes(event) {
    const name = first(event, TEXTS);
    return name !== undefined && typeof event[name] === "string" && first(this.event, TEXTS) === name
      && kind(event) === this.kind && event.id === this.event.id && this.text.length < FOLDED;
  }

  add(raw, event, offset) {
    this.last += 1;
    this.text += text(event, raw);
    this.chars += raw.length;
    this.offset = offset;
  }
}

// Calls of tools: a beginning and an end that name the same call. `at` is a time, or the number of the event.
export class Calls {
  constructor() {
    this.all = new Map();
  }

  hear(number, event, arrived) {
    const name = first(event, CALLS) ?? (/tool/i.test(kind(event)) && event?.id !== undefined ? "id" : undefined);
    if (name === undefined) return false;
    const at = time(event) ?? arrived;
    const call = this.all.get(event[name]);
    if (call === undefined) {
      this.all.set(event[name], { name: show(event.toolName ?? event.tool_name ?? event.tool ?? event.name ?? event[name]), from: at, to: at, bad: isError(event), number });
    } else {
      call.to = at;
      call.bad ||= isError(event);
    }
    return true;
  }
}
