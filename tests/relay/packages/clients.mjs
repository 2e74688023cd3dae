// The published clients, each as an app would use it. Reads orders from its standard input, one JSON value a line, and
// carries them out side by side:
//
//   {"run": name of this order, "client": one of CLIENTS, "do": "ask" | "reload" | "again", "url", "prompt", "key", …}
//
// and prints {"run", "key": what the app has to know to come back}, {"run", "text": what came next},
// {"run", "end": "finished" | "ended" | "stopped" | "error: …"}. "finished": its dialect said that the answer is whole;
// "ended": the client said nothing, and it was not. An order that is to be dropped, as by a page that is
// closed: {"run", "do": "close"}.

import readline from "node:readline"
import { HttpAgent } from "@ag-ui/client"
import { WorkflowChatTransport } from "@ai-sdk/workflow/client"
import { Client as LangGraph } from "@langchain/langgraph-sdk/client"
import { ChatClient, fetchHttpStream, fetchServerSentEvents } from "@tanstack/ai-client"
import * as ai5 from "ai5"
import * as ai6 from "ai6"
import OpenAI from "openai"

console.error = console.warn = console.debug = () => {} // clients tell of what they survive

const openai = (url) => new OpenAI({ baseURL: `${url}/v1`, apiKey: "none", maxRetries: 0 })

// What useChat asks and comes back with, without the page around it.
const aiSdk =
  (Transport) =>
  async ({ url, prompt, key, do: what }, { text, signal }) => {
    const transport = new Transport({ api: `${url}/api/chat` })
    const messages = [{ id: "u", role: "user", parts: [{ type: "text", text: prompt }] }]
    const stream = await (what === "ask"
      ? transport.sendMessages({ chatId: key, messages, trigger: "submit-message", abortSignal: signal })
      : transport.reconnectToStream({ chatId: key }))
    if (stream === null) return "idle"
    let end = "ended"
    for await (const chunk of stream) {
      if (chunk.type === "text-delta") text.next(chunk.delta)
      if (chunk.type === "error") end = `error: ${chunk.errorText}`
      if (chunk.type === "finish" && end === "ended") end = "finished"
    }
    return end
  }

const tanStack =
  (connection) =>
  async ({ url, prompt, key, do: what }, { text, found, signal }) => {
    const messages = (all) => all.filter((m) => m.role === "assistant").flatMap((m) => m.parts)
    const whole = (all) => messages(all).filter((part) => part.type === "text").map((part) => part.content).join("")
    let failed, over
    const ended = new Promise((resolve) => (over = resolve))
    const client = new ChatClient({
      threadId: "thread",
      connection: connection(url),
      initialResumeSnapshot: what === "reload" ? { resumeState: { threadId: "thread", runId: key } } : undefined,
      onRunIdChange: (run) => run && found(run),
      onMessagesChange: (all) => text.whole(whole(all)),
      onError: (error) => (failed = error),
      onStatusChange: (status) => (status === "ready" || status === "error") && over(status),
    })
    signal.addEventListener("abort", () => client.stop())
    if (what === "ask") await client.sendMessage(prompt)
    else client.attach() // as its bindings for React and others do
    const status = await ended
    if (failed ?? status === "error") throw failed
    return "finished"
  }

// The way of each: given its order, the function to call with text and with a key, and a signal. Returns its end.
const CLIENTS = {
  tanstack: tanStack((url) => fetchServerSentEvents(`${url}/tanstack`)),
  "tanstack-http": tanStack((url) => fetchHttpStream(`${url}/tanstack-http`)),

  "ai-sdk-5": aiSdk(ai5.DefaultChatTransport),
  "ai-sdk-6": aiSdk(ai6.DefaultChatTransport),

  async "ai-sdk-workflow"({ url, prompt, key, do: what }, { text, found, signal }) {
    const transport = new WorkflowChatTransport({
      api: `${url}/api/workflow`,
      onChatSendMessage: (response) => found(response.headers.get("x-workflow-run-id")),
    })
    const messages = [{ id: "u", role: "user", parts: [{ type: "text", text: prompt }] }]
    const stream = await (what === "ask"
      ? transport.sendMessages({ chatId: "chat", messages, trigger: "submit-message", abortSignal: signal })
      : transport.reconnectToStream({ chatId: key, abortSignal: signal }))
    let end = "ended"
    for await (const chunk of stream) {
      if (chunk.type === "text-delta") text.next(chunk.delta)
      if (chunk.type === "error") end = `error: ${chunk.errorText}`
      if (chunk.type === "abort") end = "stopped"
      if (chunk.type === "finish" && end === "ended") end = "finished"
    }
    return end
  },

  async langgraph({ url, prompt, key, do: what }, { text, found, signal }) {
    const client = new LangGraph({ apiUrl: url, apiKey: null })
    const input = { messages: [{ role: "user", content: prompt }] }
    const onRunCreated = ({ run_id }) => found(run_id)
    const parts =
      what === "ask"
        ? client.runs.stream("thread", "agent", { input, streamMode: ["custom", "values"], onRunCreated, signal })
        : client.runs.joinStream("thread", key, { lastEventId: "-1", signal })
    let end = "ended"
    for await (const part of parts) {
      if (part.event === "custom") text.next(part.data.text)
      else if (part.event === "values") end = "finished"
      else if (part.event === "error") end = `error: ${part.data.message}`
      else if (part.event !== "metadata" && part.event !== "end") return `error: a part ${part.event}`
    }
    return end
  },

  async "openai-responses"({ url, prompt, key, cursor, do: what }, { text, found, signal }) {
    const client = openai(url)
    const stream = await (what === "ask"
      ? client.responses.create({ model: "m", input: prompt, stream: true, background: true }, { signal })
      : client.responses.retrieve(key, { stream: true, ...(cursor && { starting_after: cursor }) }, { signal }))
    for await (const event of stream) {
      if (event.type === "response.created") found(event.response.id)
      if (event.type === "response.output_text.delta") text.next(event.delta, event.sequence_number)
      if (event.type === "response.completed") return "finished"
      if (event.type === "error") return `error: ${event.message}`
    }
    return "ended"
  },

  async "openai-chat"({ url, prompt, key }, { text, signal }) {
    const headers = { "idempotency-key": key }
    const messages = [{ role: "user", content: prompt }]
    const asked = { model: "m", messages, stream: true }
    let end = "ended"
    for await (const chunk of await openai(url).chat.completions.create(asked, { headers, signal })) {
      if (chunk.choices[0].delta.content) text.next(chunk.choices[0].delta.content)
      if (chunk.choices[0].finish_reason) end = "finished"
    }
    return end
  },

  async "ag-ui"({ url, prompt, key }, { text, signal }) {
    const initialMessages = [{ id: "u", role: "user", content: prompt }]
    const agent = new HttpAgent({ url: `${url}/agent`, threadId: "thread", initialMessages })
    signal.addEventListener("abort", () => agent.abortRun())
    let end = "ended"
    await agent.runAgent(
      { runId: key },
      {
        onTextMessageContentEvent: ({ event }) => text.next(event.delta),
        onRunFinishedEvent: () => void (end = "finished"),
        onRunErrorEvent: ({ event }) => void (end = `error: ${event.message}`),
      },
    )
    return end
  },
}

const open = new Map()
const print = (line) => process.stdout.write(JSON.stringify(line) + "\n")

async function carryOut(order) {
  const { run } = order
  const closing = new AbortController()
  open.set(run, closing)
  let before = ""
  const text = {
    next: (piece, cursor) => print({ run, text: piece, cursor }),
    // A client that shows the message as a whole: what it has changed in the middle counts as text that came again.
    whole(all) {
      if (all === before) return
      print({ run, text: all.startsWith(before) ? all.slice(before.length) : `\n${all}` })
      before = all
    },
  }
  const found = (key) => print({ run, key })
  const end = (how) => !closing.signal.aborted && print({ run, end: how })
  try {
    end(await CLIENTS[order.client](order, { text, found, signal: closing.signal }))
  } catch (error) {
    end(`error: ${error?.message ?? error}`)
  }
}

process.on("unhandledRejection", (error) => print({ stray: `${error?.stack ?? error}` }))
for await (const line of readline.createInterface({ input: process.stdin })) {
  const order = JSON.parse(line)
  if (order.do === "close") open.get(order.run)?.abort()
  else carryOut(order)
}
