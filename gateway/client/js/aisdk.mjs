// The routes of a chat for the AI SDK 6. Its page stays as the transport's documentation has it:
// useChat({ id, resume: true, transport: createDurableChatTransport({ api: "/api/chat" }) })
import { Run } from "./client.js";

const GATEWAY = process.env.GATEWAY ?? "http://127.0.0.1:8080";
const active = new Map(); // the address of the answer of each chat; of an app on several machines, a column of its database

/** POST /api/chat. `answer(messages, signal)` gives its chunks, such as streamText({ … }).toUIMessageStream(). */
export async function POST(request, answer) {
  const { id, messages } = await request.json();
  const streamUrl = `${GATEWAY}/runs/${crypto.randomUUID()}`;
  const run = await Run.start(streamUrl, { workflow: "chat", metadata: { chat: id } });
  active.set(id, streamUrl);
  write(run, answer(messages, run.signal)).finally(() => active.delete(id));
  return Response.json({ streamUrl }, { status: 201, headers: { location: streamUrl } });
}

/** GET /api/chat/<id>/stream, which the page asks for when it is loaded. */
export function GET(id) {
  const streamUrl = active.get(id);
  return streamUrl ? Response.json({ streamUrl }) : new Response(null, { status: 204 });
}

async function write(run, chunks) {
  try {
    for await (const chunk of chunks) await run.emit(chunk);
    await run.end();
  } catch (error) {
    console.error(await run.fail(error));
  }
}
