/** Runs from JavaScript, in a browser or in Node. */

/** A credential, or what gets one: it is called for each request, and once more when the gateway answers 401. */
export type Token = string | (() => string | null | undefined | Promise<string | null | undefined>);

/** Is told once each time that it begins to wait, and why, and when it goes on. By default it warns on the console. */
export type OnState = (state: "live" | "waiting", why?: Error) => void;

export interface FollowOptions<Event> {
  /** Where to begin: "-1", the start, unless it is said; "now"; or an offset that was given out. */
  offset?: string;
  /** From the start: at most so many of the last events of a run. */
  tail?: number;
  token?: Token;
  /** Seconds to wait for a run that is not there yet: 60, unless it is said. */
  wait?: number;
  /** Seconds without any sign of the gateway after which the connection is made anew: 30, unless it is said. */
  silence?: number;
  /** Whether the stream holds JSON, as runs do. Of others, events are the pieces of text, or of bytes, as they come. */
  json?: boolean;
  /** Ends it quietly. */
  signal?: AbortSignal;
  onState?: OnState;
  fetch?: typeof fetch;
  /** Each event, in order. The next waits for the promise that it returns. */
  onEvent?: (event: Event) => unknown;
  /** Events that came together, and the offset behind them. Kept together, they can be gone on from without a gap. */
  onEvents?: (events: Event[], offset: string) => unknown;
}

/**
 * Follows a stream until it is closed, through lost connections and Machines that come and go: each event once and in
 * order. With `onEvent` or `onEvents` it begins at once; without, it is iterated. Raises Refused where waiting is of no use.
 */
export function follow<Event = any>(url: string | URL, options?: FollowOptions<Event>): Following<Event>;

export interface Following<Event> extends AsyncIterable<Event> {
  /** Behind the last events that were all handed over. */
  readonly offset: string;
  /** Whether the stream has been closed, and all of it handed over. */
  readonly closed: boolean;
  /** With `onEvent` or `onEvents`: resolves at the end of the stream, or of `signal`. */
  readonly done: Promise<void> | null;
  /** Events as they came together, each time with the offset behind them. */
  batches(): AsyncIterable<{ events: Event[]; offset: string }>;
}

/** One of many streams: its path, `runs/<id>` or what follows `/v1/stream/`, or that with where to begin and a token. */
export type Stream = string | { stream: string; offset?: string; token?: string };

/** What one of many streams has: its events, its end, or why it cannot be read (which ends it too). */
export interface Part<Event> {
  stream: string;
  events: Event[];
  /** Its own offset behind these events, to go on from later. */
  offset?: string;
  closed: boolean;
  error?: { status: number; type: string; message: string };
}

export interface FollowManyOptions<Event> extends Pick<FollowOptions<Event>, "token" | "wait" | "silence" | "signal" | "onState" | "fetch"> {
  onPart?: (part: Part<Event>) => unknown;
}

/**
 * Follows up to 1,000 streams of the gateway at `url` over one connection, each as `follow` does, until the last has ended.
 * With `onPart` it begins at once; without, it is iterated. A run that is not there after `wait` seconds
 * is an error of its part.
 */
export function followMany<Event = any>(
  url: string | URL, streams: Stream[], options?: FollowManyOptions<Event>,
): AsyncIterable<Part<Event>> & { readonly done: Promise<void> | null };

/** A run's record, as `GET /runs` has it. */
export interface RunRecord {
  runId: string;
  status: "active" | "completed" | "errored" | "cancelled";
  startedAt: string;
  endedAt?: string;
  durationMs?: number;
  isError?: boolean;
  workflowName?: string;
  metadata?: Record<string, string | number | boolean>;
  cancelRequestedAt?: string;
  lease?: number;
}

/** What happened to a run, and its record since then (of one that was removed, as it was). */
export interface RunChange {
  change: "created" | "cancelled" | "ended" | "removed";
  run: RunRecord;
}

export interface FollowRunsOptions extends Pick<FollowOptions<never>, "token" | "silence" | "signal" | "onState" | "fetch"> {
  /** The `id` of one that followed this list within the hour: it is gone on with, and no list comes first. */
  id?: string;
  /** The newest runs, and the cursor of those before; comes again, in the place of changes, after an hour without a connection. */
  onList?: (runs: RunRecord[], nextCursor: string | null) => unknown;
  onChanges?: (changes: RunChange[]) => unknown;
}

/**
 * Follows a list: `url` is that of `GET /runs` with its filters. First the list as it is, then each change once, through lost
 * connections and Machines that come and go. With a callback it begins at once; without, it is iterated. Ends with `signal` only.
 */
export function followRuns(
  url: string | URL, options?: FollowRunsOptions,
): AsyncIterable<{ list?: RunRecord[]; nextCursor?: string; changes?: RunChange[] }>
  & { readonly id: string | undefined; readonly done: Promise<void> | null };

export interface RunOptions {
  workflow?: string;
  input?: unknown;
  metadata?: Record<string, string | number | boolean>;
  /** Seconds without a sign of life after which the gateway ends the run: 30, unless it is said. null: never. */
  lease?: number | null;
  /** Seconds that the run is kept after its last read or write. */
  ttl?: number;
  token?: Token;
  /** The id of the producer: whoever begins the run again with the same one takes it over. */
  producer?: string;
  /** Seconds for which a request is repeated until it is answered: 300, unless it is said. */
  patience?: number;
  /** The same for the first request: 10, unless it is said. */
  contact?: number;
  onState?: OnState;
  fetch?: typeof fetch;
}

/**
 * Records what `agent` does as the run at `http://host/runs/<id>`: completed with what it returns, errored with what it
 * throws, which is thrown on, or cancelled. Raises RunCancelled, RunLost, Refused, GaveUp.
 */
export function record<Result>(
  url: string | URL, options: RunOptions, agent: (run: Run) => Promise<Result> | Result,
): Promise<Result>;

export class Run {
  private constructor();
  /** Creates the run, or takes it over from a process that is gone. Raises Refused for one that has ended, and GaveUp. */
  static start(url: string | URL, options?: RunOptions): Promise<Run>;
  /** What a reader needs. */
  readonly coordinates: { runId: string; streamUrl: string; offset: string; token?: string };
  /** Is aborted when the run is cancelled or lost: for whatever the agent waits for. */
  readonly signal: AbortSignal;
  /** The result of the run, unless its end is given another. */
  result: any;
  /** Has an event sent. Awaited, it waits where the agent is faster than the gateway. Throws what is no JSON, and `signal`. */
  emit(event: unknown): Promise<void>;
  /** Resolves when every event so far is in the log. */
  flush(): Promise<void>;
  /** Ends the run: completed. */
  end(result?: unknown): Promise<void>;
  /** Ends the run: errored, or cancelled if it was. Resolves with the error, or with why `signal` was aborted. */
  fail(error: unknown): Promise<unknown>;
}

/**
 * A `fetch` that sends a request again until it is answered, for five minutes: for writers whose requests may be repeated,
 * such as the IdempotentProducer of @durable-streams/client, which sends each once and no more. Bodies are texts or bytes.
 */
export function persistent(input: string | URL, init?: RequestInit): Promise<Response>;

/** The gateway's answer was no, and to ask again would not change it. */
export class Refused extends Error {
  readonly status: number;
  readonly type?: string;
  readonly details?: string;
  readonly offset?: string | null;
}
/** Nobody answered for as long as the caller was ready to wait. */
export class GaveUp extends Error {}
/** Somebody has asked for the run to stop. */
export class RunCancelled extends Error {}
/** Another process writes the run now, or its lease has run out. */
export class RunLost extends Error {}
