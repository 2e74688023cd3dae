// A run that @durable-streams/client writes and reads.
import { DurableStream, IdempotentProducer, stream } from "@durable-streams/client";
import { persistent } from "./client.js";

/** Without `persistent`, events whose request meets a Machine that is killed are lost, and only `onError` says so. */
export async function write(url, events) {
  const handle = await DurableStream.create({ url, contentType: "application/json", fetch: persistent });
  const producer = new IdempotentProducer(handle, "agent", { fetch: persistent, autoClaim: true, onError: (error) => { throw error; } });
  for await (const event of events) producer.append(JSON.stringify(event));
  await producer.flush();
  await producer.close();
}

/** `heard(events, offset)`. A connection that is lost is an error of the client's: its app goes on from the last offset. */
export async function read(url, heard, offset = "-1") {
  for (let closed = false; !closed; ) {
    try {
      const response = await stream({ url, offset, live: "sse", json: true });
      response.subscribeJson(({ items, offset: next, streamClosed }) => {
        heard(items, next);
        offset = next;
        closed ||= streamClosed;
      });
      await response.closed;
      while (offset !== response.offset) await new Promise((resolve) => setTimeout(resolve, 5)); // the last batch comes after it
      closed ||= response.streamClosed;
    } catch (error) {
      if (error.status >= 400 && error.status < 500) throw error;
      await new Promise((resolve) => setTimeout(resolve, 200));
    }
  }
}
