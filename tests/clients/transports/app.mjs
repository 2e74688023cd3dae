// The server of a chat, whose routes are the manual's: its model says what it is told on standard input, one JSON text a line,
// and null at its end. Serves page.html and page.js of a folder.
//
// node app.mjs FOLDER
// prints {"port"}

import fs from "node:fs"
import http from "node:http"
import { createInterface } from "node:readline"
import { GET, POST } from "./aisdk.mjs"

const lines = createInterface({ input: process.stdin })[Symbol.asyncIterator]()

async function* chunks() {
  yield* [{ type: "start", messageId: "m" }, { type: "text-start", id: "t" }]
  for (let delta; (delta = JSON.parse((await lines.next()).value)) !== null; ) yield { type: "text-delta", id: "t", delta }
  yield* [{ type: "text-end", id: "t" }, { type: "finish" }]
}

const server = http.createServer(async (request, response) => {
  const { pathname } = new URL(request.url, "http://app")
  let answer
  if (request.method === "POST") {
    let body = ""
    for await (const piece of request) body += piece
    answer = await POST(new Request("http://app/", { method: "POST", body }), chunks)
  } else if (pathname.startsWith("/api/chat/")) {
    answer = GET(pathname.split("/")[3])
  } else {
    const type = pathname === "/page.js" ? "text/javascript" : "text/html"
    answer = new Response(fs.readFileSync(`${process.argv[2]}/${pathname === "/page.js" ? "page.js" : "page.html"}`), { headers: { "content-type": type } })
  }
  response.writeHead(answer.status, Object.fromEntries(answer.headers))
  response.end(Buffer.from(await answer.arrayBuffer()))
})
server.listen(0, "127.0.0.1", () => process.stdout.write(JSON.stringify({ port: server.address().port }) + "\n"))
