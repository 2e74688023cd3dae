// What a user of the client writes in TypeScript, under `strict`: it has to compile, and what is marked has to fail.
import { follow, Following, followMany, followRuns, GaveUp, record, Refused, Run, RunCancelled, RunLost } from "../../../gateway/client/js/client.js";

type Token = { type: "token"; text: string };

const following: Following<Token> = follow<Token>("/runs/1", { offset: "-1", token: async () => "t", onEvent: (event) => event.text });
const done: Promise<void> | null = following.done;
const offset: string = following.offset;
follow(new URL("http://h/runs/1"), { onEvents: (events, offset) => void [events.length, offset], onState: (state, why) => void [state, why?.message] });

for await (const { stream, events, error } of followMany<Token>("http://h", ["runs/1", { stream: "runs/2", token: "t" }])) {
  void [stream.trim(), events[0]?.text, error?.status.toFixed()];
}

followRuns("/runs?status=active", {
  onList: (runs, cursor) => void [runs[0]?.runId.trim(), cursor?.trim()],
  onChanges: (changes) => changes.map(({ change, run }) => change === "ended" && run.endedAt?.trim()),
});

const result: { tokens: number } = await record("http://h/runs/1", { workflow: "chat", metadata: { user: "u" }, lease: null }, async (run: Run) => {
  for await (const event of follow<Token>("http://h/runs/2", { signal: run.signal })) await run.emit(event.text);
  await run.flush();
  run.result = { a: 1 };
  return { tokens: 1 };
});

try {
  const run = await Run.start("http://h/runs/1");
  await run.end();
} catch (error) {
  if (error instanceof Refused) error.status.toFixed();
  if (error instanceof RunCancelled || error instanceof RunLost || error instanceof GaveUp) error.message.trim();
}

// @ts-expect-error: an offset is a text
follow("/runs/1", { offset: 1 });
// @ts-expect-error: there is no such option
record("/runs/1", { workflowName: "chat" }, () => {});
// @ts-expect-error: a run is started, not made
new Run("/runs/1");

export { done, offset, result };
