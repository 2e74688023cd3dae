// Follows a stream with the gateway's own client, and prints what it is given.
//
// node follow.mjs '{"url": …, "streams": many, or nothing, "list": whether it is one of runs, "options": those of follow, "keys": credentials, the next one each time one is asked for}'
// prints {"items": [events that came together], "offset": …}, {"state": …, "why": …}, {"key": n} for each key that was shown,
//        {"end": {"offset": …, "closed": …}} or {"refused": {"name", "status", "message"}} as its last line

import { follow, followMany, followRuns } from "../../../gateway/client/js/client.js"

const { url, streams, list, options, keys } = JSON.parse(process.argv[2])
const print = (line) => process.stdout.write(JSON.stringify(line) + "\n")
let shown = 0

const token = keys && (() => {
  const key = keys[Math.min(shown, keys.length - 1)]
  shown += 1
  print({ key: shown })
  return key
})
const onState = (state, why) => print({ state, why: why?.message })

if (streams) {
  for await (const part of followMany(url, streams, { ...options, onState })) print(part)
  print({ end: {} })
} else if (list) {
  for await (const told of followRuns(url, { ...options, onState })) print(told)
} else try {
  const following = follow(url, { ...options, token, onState })
  for await (const { events, offset } of following.batches()) {
    print({ items: events.map((event) => (event instanceof Uint8Array ? { bytes: [...event] } : event)), offset })
  }
  print({ end: { offset: following.offset, closed: following.closed } })
} catch ({ name, status, message }) {
  print({ refused: { name, status, message } })
}
