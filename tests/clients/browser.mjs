// Follows a run with a browser's EventSource and nothing else: it reconnects by itself, to the same address.
//
// node browser.mjs '{"url": the address with its query, as a page would give it}'
// prints {"open": n} for the nth connection, {"item": …, "id": lastEventId},
//        {"interrupted": why} when a connection ended, {"end": "closed" | why it failed}

import { EventSource } from "eventsource"

const { url } = JSON.parse(process.argv[2])
const print = (line) => process.stdout.write(JSON.stringify(line) + "\n")

const source = new EventSource(url)
let opened = 0

function end(why) {
  source.close()
  print({ end: why })
}

source.addEventListener("open", () => print({ open: ++opened }))
source.addEventListener("data", (event) => {
  for (const item of JSON.parse(event.data)) print({ item, id: event.lastEventId })
})
source.addEventListener("control", (event) => {
  if (JSON.parse(event.data).streamClosed) end("closed")
})
source.addEventListener("error", (event) => {
  if (source.readyState === EventSource.CLOSED) end(`failed: ${event.code} ${event.message}`)
  else print({ interrupted: event.message ?? "the connection ended" })
})
