// Follows a run with @durable-streams/client as an app would, to its end, and prints what it is given.
//
// node follow.mjs '{"url": …, "offset": "-1", "live": true | false | "sse" | "long-poll"}'
// prints {"get": the query of a request that is about to be made}
//        {"item": …, "next": the offset to resume at once the item's whole batch is in}
//        {"interrupted": why, "offset": …} when the client gave up and the app resumes
//        {"end": {"offset": …, "closed": …}} as its last line

import { stream } from "@durable-streams/client"

const { url, offset: start = "-1", live } = JSON.parse(process.argv[2])
const print = (line) => process.stdout.write(JSON.stringify(line) + "\n")
const pause = (ms) => new Promise((resolve) => setTimeout(resolve, ms))

let offset = start
let closed = false

function observed(address, init) {
  print({ get: new URL(address).search })
  return fetch(address, init)
}

function take(batch) {
  for (const item of batch.items) print({ item, next: batch.offset })
  offset = batch.offset
  closed ||= batch.streamClosed
}

async function session() {
  const response = await stream({ url, offset, live, json: true, fetch: observed })
  response.subscribeJson(take)
  await response.closed
  // `closed` can be told before the last batch is handed over, and says nothing if that batch's body then fails.
  for (let waits = 0; offset !== response.offset; waits++) {
    if (waits === 1000) throw new Error(`the batch up to ${response.offset} never came`)
    await pause(5)
  }
  closed ||= response.streamClosed
}

do {
  try {
    await session()
    // The iteration can also end without a word, before the run does.
    if (!closed && live !== false) print({ interrupted: "the session ended", offset })
  } catch (error) {
    print({ interrupted: `${error.name}: ${error.message}`, offset })
    await pause(50)
  }
} while (!closed && live !== false)

print({ end: { offset, closed } })
