// Runs the README's browser example, as it is printed there, with the platform's fetch and EventSource in its place.
//
// node readme.mjs '{"code": the example, "coordinates": what POST /runs answered, "mint": where to get another token,
//                   "key": what to show there}'
// prints {"shown": events} for each call of the page's `show`, {"minted": n} for each token that it fetches

import { EventSource } from "eventsource"

const { code, coordinates, mint, key } = JSON.parse(process.argv[2])
const print = (line) => process.stdout.write(JSON.stringify(line) + "\n")
let minted = 0

async function page(path, options) {
  if (path === "/start") return { json: async () => coordinates }
  if (path !== `/token/${coordinates.runId}`) throw new Error(path)
  const body = JSON.stringify({ ttl: 3600 })
  const answer = await fetch(mint, { method: "POST", headers: { authorization: `Bearer ${key}` }, body })
  print({ minted: ++minted })
  return { text: async () => (await answer.json()).token }
}

const AsyncFunction = (async () => {}).constructor
await new AsyncFunction("fetch", "EventSource", "show", code)(page, EventSource, (events) => print({ shown: events }))
