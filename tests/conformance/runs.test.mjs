// The same suite in the other namespace: every stream is at /runs/<id>, which is the stream runs/<id>.
//
// The suite has its prefix written into it, so an altered copy of its one file is loaded: the addresses, the paths in
// Stream-Forked-From and what Location must end with become /runs/<name>. Its assertions see them as they are; no
// request or response is rewritten on the way. Subscriptions stay at /v1/stream/__ds/, and name the streams runs/<id>.

import { readFile, readdir, rename, writeFile } from "node:fs/promises"
import { createRequire } from "node:module"
import path from "node:path"
import { pathToFileURL } from "node:url"

const main = createRequire(import.meta.url).resolve("@durable-streams/server-conformance-tests")
const folder = path.dirname(main)

// Each alteration with how often it must occur: another version of the suite has to be looked at anew.
const ALTERATIONS = [
  // The subscription tests' own addresses come first, so that __ds is left where it is.
  [
    "`${getBaseUrl()}/v1/stream/${path}`",
    "getBaseUrl() + (path.startsWith('runs/') ? `/${path}` : `/v1/stream/${path}`)",
    1,
  ],
  ["/v1/stream/", "/runs/", 415],
  ["`events/", "`runs/events/", 9],
  ["`manual/", "`runs/manual/", 5],
  ["`wake/", "`runs/wake/", 1],
]
const KEPT = "/v1/stream\u0000" // stands for the prefix where an alteration itself needs it

function alter(source) {
  for (const [from, to, times] of ALTERATIONS) {
    const parts = source.split(from)
    if (parts.length - 1 !== times)
      throw new Error(`the suite has ${parts.length - 1} times ${from}, and not ${times}: look at it anew`)
    source = parts.join(to.replaceAll("/v1/stream/", KEPT))
  }
  return source.replaceAll(KEPT, "/v1/stream/")
}

/** The altered copy must lie beside the original, from where it finds the packages that it imports. */
async function alteredCopy() {
  const [name] = (await readdir(folder)).filter((file) => /^src-.*\.js$/.test(file))
  const copy = path.join(folder, `runs-${process.pid}.mjs`)
  await writeFile(copy, alter(await readFile(path.join(folder, name), "utf8")))
  const settled = path.join(folder, "runs.mjs")
  await rename(copy, settled)
  return settled
}

// Should a request still go to the old prefix, its test fails and says so.
const original = globalThis.fetch
globalThis.fetch = (input, init) => {
  const { pathname } = new URL(input instanceof Request ? input.url : input)
  if (pathname.startsWith("/v1/stream/") && !pathname.startsWith("/v1/stream/__ds/"))
    throw new Error(`${pathname} was not redirected to /runs/`)
  return original(input, init)
}

const { runConformanceTests } = await import(pathToFileURL(await alteredCopy()).href)

runConformanceTests({
  baseUrl: process.env.CONFORMANCE_BASE_URL,
  longPollTimeoutMs: 500,
  subscriptions: true,
})
