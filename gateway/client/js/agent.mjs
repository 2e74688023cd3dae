// An agent: what is typed are the tokens of a run, and the end of the input is its end.
// node agent.mjs http://127.0.0.1:8080/runs/demo-2
import { createInterface } from "node:readline";
import { record } from "./client.js";

const [url, token] = process.argv.slice(2);

const result = await record(url, { workflow: "chat", token }, async (run) => {
  let tokens = 0;
  for await (const text of createInterface({ input: process.stdin, signal: run.signal })) {
    await run.emit({ type: "token", text });
    tokens += 1;
  }
  return { tokens };
});
console.log(JSON.stringify(result));
