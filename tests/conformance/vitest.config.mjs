// One file, one worker: the suite's TTL and timing tests have the machine to themselves.

import { defineConfig } from "vitest/config"

export default defineConfig({
  // What is wrong is wrong three times; a TTL of one second may pass between two requests of a busy machine.
  test: { include: ["*.test.mjs"], fileParallelism: false, watch: false, retry: 2, testTimeout: 30_000 },
})
