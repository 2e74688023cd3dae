// Many EventSources on one run, as many pages of a browser: each reconnects by itself, and nobody helps it.
//
// node pages.mjs '{"url": the address with its query, "count": how many}'
// prints {"page": n, "items": […]} for what came to one of them, {"page": n, "end": "closed" | why it gave up}

import { EventSource } from "eventsource"

const { url, count } = JSON.parse(process.argv[2])
const print = (line) => process.stdout.write(JSON.stringify(line) + "\n")

for (let page = 0; page < count; page++) {
  const source = new EventSource(url)
  const end = (why) => {
    source.close()
    print({ page, end: why })
  }
  source.addEventListener("data", (event) => print({ page, items: JSON.parse(event.data) }))
  source.addEventListener("control", (event) => {
    if (JSON.parse(event.data).streamClosed) end("closed")
  })
  source.addEventListener("error", (event) => {
    if (source.readyState === EventSource.CLOSED) end(`gave up: ${event.code} ${event.message}`)
  })
}
