// An agent that records a run with the gateway's own client, and does what it is told, one JSON value a line.
//
// node record.mjs '{"url": …, "options": those of record}'
// reads {"emit": [events]}, {"flush": true}, {"throw": message} or {"return": result}
// prints {"coordinates": …}, {"flushed": how many so far}, {"state": …}, {"aborted": why}, and at its end {"result": …} or
//        {"refused": {"name", "message"}}

import { createInterface } from "node:readline"
import { record } from "../../../gateway/client/js/client.js"

const { url, options } = JSON.parse(process.argv[2])
const print = (line) => process.stdout.write(JSON.stringify(line) + "\n")

async function agent(run) {
  print({ coordinates: run.coordinates })
  run.signal.addEventListener("abort", () => print({ aborted: run.signal.reason.name }))
  let emitted = 0
  for await (const line of createInterface({ input: process.stdin, signal: run.signal })) {
    const said = JSON.parse(line)
    if ("return" in said) return said.return
    if ("throw" in said) throw new RangeError(said.throw)
    for (const event of said.emit ?? []) await run.emit(event)
    emitted += said.emit?.length ?? 0
    if (said.flush) {
      await run.flush()
      print({ flushed: emitted })
    }
  }
}

try {
  print({ result: await record(url, { ...options, onState: (state) => print({ state }) }, agent) })
} catch ({ name, message }) {
  print({ refused: { name, message } })
}
process.stdin.destroy()
