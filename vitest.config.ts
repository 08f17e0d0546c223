import { defineConfig } from 'vitest/config'

export default defineConfig({
  test: {
    include: ['test/**/*.test.ts'],
    globalSetup: ['test/harness/global-setup.ts'],
    // Real processes and real stores on two cores; a test that waits longer than this hangs.
    testTimeout: 30_000,
    hookTimeout: 60_000,
    // Files share the machine, and some of them measure time: two at once is what two cores carry.
    maxWorkers: 2,
    env: { NODE_ENV: 'test' },
  },
})
