// A chat of TanStack AI, whose messages and answers are one stream. Its page:
// useChat({ id, live: true, connection: durableStreamConnection({ sendUrl: "/api/chat", readUrl: `${GATEWAY}/v1/stream/chats/${id}` }) })
import { DurableStream, IdempotentProducer } from "@durable-streams/client";
import { sanitizeChunkForStorage, toMessageEchoChunks } from "@durable-streams/tanstack-ai-transport";
import { persistent } from "./client.js";

const GATEWAY = process.env.GATEWAY ?? "http://127.0.0.1:8080";

/** Of POST /api/chat: the person's message, and the answer as its chunks come. */
export async function answer(chat, message, chunks) {
  const url = `${GATEWAY}/v1/stream/chats/${chat}`;
  const handle = await DurableStream.create({ url, contentType: "application/json", fetch: persistent });
  const failed = (error) => console.error("The chat lacks a part of its answer.", error);
  const producer = new IdempotentProducer(handle, crypto.randomUUID(), { fetch: persistent, onError: failed });
  for (const chunk of toMessageEchoChunks(message)) producer.append(JSON.stringify(chunk));
  for await (const chunk of chunks) producer.append(JSON.stringify(sanitizeChunkForStorage(chunk)));
  await producer.flush();
}
