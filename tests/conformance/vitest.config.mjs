// One file, one worker: the suite's TTL and timing tests have the machine to themselves.

import { defineConfig } from "vitest/config"

export default defineConfig({
  test: { include: ["*.test.mjs"], fileParallelism: false, watch: false },
})
