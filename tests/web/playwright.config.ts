// The page in Debian's Chromium, against a lab that the tests build with the kennel of this checkout.

import { defineConfig } from "@playwright/test";
import { CHROMIUM } from "./lab";

const flags = [
  ...(process.getuid?.() === 0 ? ["--no-sandbox"] : []),
  // A page that did not come from the host itself (page.ts) could not open its consoles otherwise.
  ...(process.env.KENNEL_PAGE ? ["--disable-features=LocalNetworkAccessChecks"] : []),
];

export default defineConfig({
  testDir: ".",
  testMatch: "*.spec.ts",
  // One lab takes the machine's cores; and the stories follow on each other.
  workers: 1,
  fullyParallel: false,
  forbidOnly: true,
  // A machine that was busy for a moment; it is told as "flaky".
  retries: 1,
  timeout: 180_000,
  expect: { timeout: 45_000 },
  globalSetup: "./setup.ts",
  reporter: [["list"]],
  use: {
    // The lab's certificate authority is its own.
    ignoreHTTPSErrors: true,
    actionTimeout: 20_000,
    viewport: { width: 1360, height: 900 },
    screenshot: "only-on-failure",
    launchOptions: { executablePath: CHROMIUM, args: flags },
  },
});
