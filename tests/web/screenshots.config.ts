// The pictures of the README: `make screenshots`.

import stories from "./playwright.config";

export default { ...stories, testMatch: "screenshots.ts", timeout: 600_000 };
