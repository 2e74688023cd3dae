// An AI SDK app as its documentation has it, without anything that resumes: streamText on a model that says what it is
// told on standard input, one JSON text a line, and `null` at its end. Prints {"port"}, and {"call"} for each question.

import fs from "node:fs"
import http from "node:http"
import path from "node:path"
import readline from "node:readline"
import { convertToModelMessages, streamText } from "ai"
import { MockLanguageModelV4 } from "ai/test"

const print = (line) => process.stdout.write(JSON.stringify(line) + "\n")
const page = process.argv[2]
const lines = readline.createInterface({ input: process.stdin })[Symbol.asyncIterator]()
const count = { total: undefined, noCache: undefined, cacheRead: undefined, cacheWrite: undefined }
const usage = { inputTokens: count, outputTokens: { total: undefined, text: undefined, reasoning: undefined } }
let calls = 0

const model = new MockLanguageModelV4({
  doStream: async () => {
    print({ call: ++calls })
    async function* parts() {
      yield { type: "stream-start", warnings: [] }
      yield { type: "text-start", id: "t" }
      for (;;) {
        const text = JSON.parse((await lines.next()).value)
        if (text === null) break
        yield { type: "text-delta", id: "t", delta: text }
      }
      yield { type: "text-end", id: "t" }
      yield { type: "finish", finishReason: { unified: "stop", raw: undefined }, usage }
    }
    return { stream: ReadableStream.from(parts()) }
  },
})

const server = http.createServer(async (request, response) => {
  const { pathname } = new URL(request.url, "http://app")
  const file = path.join(page, path.basename(pathname))
  if (request.method === "POST" && pathname === "/api/chat") {
    let body = ""
    for await (const piece of request) body += piece
    const messages = await convertToModelMessages(JSON.parse(body).messages)
    streamText({ model, messages }).pipeUIMessageStreamToResponse(response)
  } else if (request.method === "GET" && fs.existsSync(file) && fs.statSync(file).isFile()) {
    const type = file.endsWith(".html") ? "text/html" : "text/javascript"
    response.writeHead(200, { "content-type": type }).end(fs.readFileSync(file))
  } else {
    response.writeHead(404).end()
  }
})
server.listen(0, "127.0.0.1", () => print({ port: server.address().port }))
