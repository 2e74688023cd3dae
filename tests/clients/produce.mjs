// Writes a run with the IdempotentProducer of @durable-streams/client: creates it, appends what it is told, closes it.
//
// node produce.mjs '{"url": …, "producer": id}'
// reads one JSON value a line: {"append": [events]} or {"close": the last event, or null for none}
// prints {"created": …}, {"appended": how many so far} once they are acknowledged, {"closed": final offset},
//        {"retried": why} for each attempt that failed

import { createInterface } from "node:readline"
import { DurableStream, IdempotentProducer } from "@durable-streams/client"

const { url, producer: id } = JSON.parse(process.argv[2])
const print = (line) => process.stdout.write(JSON.stringify(line) + "\n")
const pause = () => new Promise((resolve) => setTimeout(resolve, 50))

/** The producer does not retry, and cannot be asked to send a batch again: so its fetch repeats the same request. */
async function persistent(...request) {
  for (;;) {
    try {
      const response = await fetch(...request)
      if (response.status < 500 && response.status !== 429) return response
      print({ retried: `status ${response.status}` })
    } catch (error) {
      print({ retried: `${error.message}: ${error.cause?.message ?? ""}` })
    }
    await pause()
  }
}

const handle = await DurableStream.create({ url, contentType: "application/json" })
print({ created: handle.url })

const producer = new IdempotentProducer(handle, id, {
  fetch: persistent,
  lingerMs: 0,
  // flush() does not say that a batch was lost; only this does.
  onError: (error) => {
    console.error(error)
    process.exit(1)
  },
})
let appended = 0

for await (const line of createInterface({ input: process.stdin })) {
  const said = JSON.parse(line)
  if ("close" in said) {
    const last = said.close === null ? undefined : JSON.stringify(said.close)
    print({ closed: (await producer.close(last)).finalOffset })
    break
  }
  for (const event of said.append) producer.append(JSON.stringify(event))
  await producer.flush()
  appended += said.append.length
  print({ appended })
}
process.stdin.destroy()
