// Drives what the manual shows for published clients, word by word as it is told on standard input: one JSON value a line,
// null at the end.
//
// node drive.mjs '{"what": "producer" | "reader" | "aisdk" | "tanstack", "url": …}'
// prints what comes to whom reads: {"items": […]}, {"text": …, "by": who}; {"error": …}, and {"end": …}

import { createInterface } from "node:readline"
import { createDurableChatTransport } from "@durable-streams/aisdk-transport"
import { durableStreamConnection } from "@durable-streams/tanstack-ai-transport"
import { readUIMessageStream } from "ai"
import * as aisdk from "./aisdk.mjs"
import * as producer from "./producer.mjs"
import * as tanstack from "./tanstack.mjs"

// What a browser only logs: the client's promise `closed`, which nobody of the transport waits for.
process.on("unhandledRejection", () => {})

const { what, url } = JSON.parse(process.argv[2])
const print = (line) => process.stdout.write(JSON.stringify(line) + "\n")

async function* said() {
  for await (const line of createInterface({ input: process.stdin })) {
    const value = JSON.parse(line)
    if (value === null) break
    yield* [value].flat()
  }
}

/** The whole message each time that it has grown: what a page shows. */
async function show(by, chunks) {
  try {
    for await (const { parts } of readUIMessageStream({ stream: chunks, terminateOnError: true })) {
      print({ by, text: parts.filter(({ type }) => type === "text").map(({ text }) => text).join("") })
    }
    print({ by, end: "finished" })
  } catch (error) {
    print({ by, error: `${error.name}: ${error.message}` })
  }
}

if (what === "producer") {
  await producer.write(url, said())
  print({ end: "written" })
  process.stdin.destroy()
} else if (what === "reader") {
  await producer.read(url, (items, offset) => print({ items, offset }))
  print({ end: "closed" })
} else if (what === "aisdk") {
  // The page and its server, which share nothing but requests.
  async function* chunks() {
    yield* [{ type: "start", messageId: "m" }, { type: "text-start", id: "t" }]
    for await (const delta of said()) yield { type: "text-delta", id: "t", delta }
    yield* [{ type: "text-end", id: "t" }, { type: "finish" }]
  }
  const server = async (address, init) => {
    const request = new Request(new URL(address, "http://app"), init)
    const { pathname } = new URL(request.url)
    return request.method === "POST" ? aisdk.POST(request, chunks) : aisdk.GET(pathname.split("/")[3])
  }
  const transport = createDurableChatTransport({ api: "/api/chat", fetchClient: server })
  const reloaded = async (by) => show(by, await transport.reconnectToStream({ chatId: "c" }))
  print({ before: await transport.reconnectToStream({ chatId: "c" }) })
  const stream = await transport.sendMessages({ chatId: "c", messages: [], trigger: "submit-message" })
  await show("page", stream)
  await reloaded("page after a reload") // what useChat({ resume: true }) does when it is loaded
  process.stdin.destroy()
} else {
  const connection = durableStreamConnection({ sendUrl: "http://app/api/chat", readUrl: url, emitSnapshotOnSubscribe: false })
  const until = new AbortController()
  async function* chunks() {
    yield { type: "TEXT_MESSAGE_START", messageId: "a", role: "assistant" }
    for await (const delta of said()) yield { type: "TEXT_MESSAGE_CONTENT", messageId: "a", delta, content: "so far" }
    yield { type: "TEXT_MESSAGE_END", messageId: "a" }
  }
  const answering = tanstack.answer(url.split("/").at(-1), { id: "q", role: "user", content: "hello", parts: [{ type: "text", content: "hello" }] }, chunks())
  while (!until.signal.aborted) {
    try {
      for await (const { type, messageId, delta } of connection.subscribe(until.signal)) {
        print({ type, messageId, delta })
        if (type === "TEXT_MESSAGE_END" && messageId === "a") until.abort()
      }
    } catch (error) {
      print({ error: `${error.name}: ${error.message}` })
      await new Promise((resolve) => setTimeout(resolve, 100))
    }
  }
  await answering
  print({ end: "answered" })
  process.exit()
}
