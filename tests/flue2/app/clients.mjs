// Front ends of conversations, by the SDK that they use: told what to do by lines of JSON, of which each may have a `tag`.
//
// {"do": "observe", "url", "live": "sse" | "long-poll"}: what useFlueAgent of @flue/react does; prints {"out": a tool's
//   output} or {"error"} for each end of a tool, {"settled": outcome, "submission"} for each settlement, {"phase"}
// {"do": "send", "url", "body"}: prints {"sent": the receipt}
// {"do": "abort", "url"}: prints {"aborted": true | false}
// Each line that is printed has its tag, and `at` in ms; a call that fails prints {"failed"}.

import { createInterface } from "node:readline"
import { createFlueClient } from "@flue/sdk"

const print = (tag, line) => process.stdout.write(JSON.stringify({ tag, at: Date.now(), ...line }) + "\n")

const ways = {
  observe(client, { tag, live }) {
    const observation = client.observe({ live })
    const told = new Set()
    let phase
    const once = (key, line) => told.has(key) || (told.add(key), print(tag, line))
    observation.subscribe(() => {
      const { conversation, phase: now, error } = observation.getSnapshot()
      if (now !== phase) print(tag, { phase: (phase = now), ...(error ? { why: error.message } : {}) })
      for (const part of (conversation?.messages ?? []).flatMap((message) => message.parts)) {
        if (part.state === "output-available") once(part.toolCallId, { out: part.output })
        if (part.state === "output-error") once(part.toolCallId, { error: part.errorText })
      }
      for (const { submissionId, outcome } of conversation?.settlements ?? []) {
        once(submissionId, { settled: outcome, submission: submissionId })
      }
    })
  },
  async send(client, { tag, body }) {
    print(tag, { sent: await client.send({ message: { kind: "user", body } }) })
  },
  async abort(client, { tag }) {
    print(tag, await client.abort())
  },
}

print(null, { ready: true })
for await (const line of createInterface({ input: process.stdin })) {
  const asked = JSON.parse(line)
  const client = createFlueClient({ url: asked.url })
  Promise.resolve()
    .then(() => ways[asked.do](client, asked))
    .catch((error) => print(asked.tag, { failed: error.message, status: error.status }))
}
process.exit(0)
