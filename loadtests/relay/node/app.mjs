// An agent server in Node whose streams can be come back to, as the AI SDK's documentation has it done: `node app.mjs PORT
// [plain]`. It produces what loadtests/relay/agent.py produces. `plain`: without resumable-stream, for what that adds.
import { createServer } from "node:http";

const [port, plain] = process.argv.slice(2);
const context =
  plain === undefined
    ? (await import("resumable-stream")).createResumableStreamContext({ waitUntil: () => {} })
    : undefined;
const zero = performance.timeOrigin;

function frames({ frames, rate }) {
  return new ReadableStream({
    start(controller) {
      const began = performance.now();
      let n = 0;
      const speak = () => {
        const now = performance.now();
        while (n < frames && began + (n * 1000) / rate <= now + 0.5) {
          const t = Math.round((zero + performance.now()) * 1000);
          controller.enqueue(`data: {"type":"text-delta","id":"1","n":${n++},"t":${t}000,"delta":"word "}\n\n`);
        }
        if (n === frames) controller.close();
        else setTimeout(speak, began + (n * 1000) / rate - performance.now());
      };
      speak();
    },
  });
}

async function answer(response, stream) {
  if (!stream) return response.writeHead(204).end();
  response.writeHead(200, { "content-type": "text/event-stream", "cache-control": "no-cache", connection: "close" });
  for await (const frame of stream) response.write(frame);
  response.end();
}

createServer(async (request, response) => {
  const coming = request.url.match(/^\/api\/chat\/([^/]+)\/stream$/);
  if (coming) return answer(response, await context.resumeExistingStream(coming[1]));
  let body = "";
  for await (const piece of request.setEncoding("utf8")) body += piece;
  const asked = JSON.parse(body);
  const make = () => frames(asked);
  await answer(response, context ? await context.createNewResumableStream(asked.id, make) : make());
}).listen({ port: Number(port), host: "127.0.0.1", backlog: 2048 });
