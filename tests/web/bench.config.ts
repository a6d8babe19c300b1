// How the page serves a large cluster, measured: `make bench-page`. No test of `make test`.

import { defineConfig } from "@playwright/test";
import { CHROMIUM } from "./lab";

export default defineConfig({
  testDir: ".",
  testMatch: "*.bench.ts",
  workers: 1,
  fullyParallel: false,
  forbidOnly: true,
  retries: 0,
  timeout: 900_000,
  expect: { timeout: 120_000 },
  reporter: [["list"]],
  use: {
    ignoreHTTPSErrors: true,
    viewport: { width: 1360, height: 900 },
    launchOptions: { executablePath: CHROMIUM, args: process.getuid?.() === 0 ? ["--no-sandbox"] : [] },
  },
});
