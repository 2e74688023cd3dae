// Follows a run as an app's front end would, with the packages that its app is made of, and prints what it is given.
//
// node follow.mjs '{"url": the server's, "run": its id, "how": "stream" | "sse" | "events" | "get" | "durable",
//                  "token": if it needs one}'
// prints {"item": …, "at": ms} for each event, or {"record": …}, and {"end": true} as its last line

import { stream } from "@durable-streams/client"
import { createFlueClient } from "@flue/sdk"

const { url, run, how, token } = JSON.parse(process.argv[2])
const print = (line) => process.stdout.write(JSON.stringify(line) + "\n")
const take = (item) => print({ item, at: Date.now() })

const { runs } = createFlueClient({ baseUrl: url, token })
const ways = {
  async stream() {
    for await (const event of runs.stream(run)) take(event)
  },
  async sse() {
    for await (const event of runs.stream(run, { live: "sse" })) take(event)
  },
  async events() {
    for (const event of await runs.events(run)) take(event)
  },
  async get() {
    print({ record: await runs.get(run) })
  },
  async durable() {
    const response = await stream({ url: `${url}/runs/${run}`, offset: "-1", live: "sse", json: true })
    for await (const event of response.jsonStream()) take(event)
  },
}
await ways[how]()
print({ end: true })
