// node reference.mjs <port> [<folder>]: the reference server, in memory or with its files in the folder.
import { DurableStreamTestServer, FileBackedStreamStore } from "@durable-streams/server"

const [port, dataDir] = process.argv.slice(2)
const server = new DurableStreamTestServer({ port: Number(port), host: "127.0.0.1" })
// With the default of 100 file handles it answers 404 to appends that it wrote, once more than 100 runs are in use.
if (dataDir) server.store = new FileBackedStreamStore({ dataDir, maxFileHandles: 8192 })
await server.start()
// Writers wait longer than five seconds for their turn when it is overloaded.
server.server.keepAliveTimeout = 3_600_000
