// The suite as it is published: every stream is at /v1/stream/<name>.

import { runConformanceTests } from "@durable-streams/server-conformance-tests"

runConformanceTests({
  baseUrl: process.env.CONFORMANCE_BASE_URL,
  longPollTimeoutMs: 500,
  subscriptions: true,
})
