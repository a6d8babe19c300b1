import { defineConfig } from "vite";

// For `npm run dev`: a host whose API the page uses, as in KENNEL_URL=https://127.0.0.1:40001.
const host = process.env.KENNEL_URL;

export default defineConfig({
  // Preact's runtime for JSX; no plug-in is needed for that.
  esbuild: { jsx: "automatic", jsxImportSource: "preact" },
  build: {
    target: "es2022",
    outDir: "dist",
    // `scripts/clean.mjs` empties it: the folder itself is part of the repository.
    emptyOutDir: false,
    // The policy of the page allows no inline data but images, and small files are rare.
    assetsInlineLimit: 0,
    modulePreload: { polyfill: false },
    reportCompressedSize: false,
  },
  server: host
    ? { proxy: { "/v1": { target: host, changeOrigin: true, secure: false, ws: true, headers: { origin: host } } } }
    : {},
});
