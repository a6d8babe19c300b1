// Compresses what was built, once and well, so that kenneld has nothing to do; and keeps the page small: the parts
// that are loaded at the beginning must stay below a limit.
import { readdirSync, readFileSync, statSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { brotliCompressSync, constants } from "node:zlib";

const dist = fileURLToPath(new URL("../dist/", import.meta.url));
const FIRST_VIEW_MAX = 400 * 1024;
const WORTH_IT = 512;

function files(folder) {
  return readdirSync(folder, { withFileTypes: true }).flatMap((entry) => {
    const path = join(folder, entry.name);
    return entry.isDirectory() ? files(path) : [path];
  });
}

let firstView = 0;
for (const path of files(dist)) {
  if (path.endsWith(".br") || path.endsWith(".gitignore")) continue;
  const plain = readFileSync(path);
  const small = brotliCompressSync(plain, {
    params: { [constants.BROTLI_PARAM_QUALITY]: 11, [constants.BROTLI_PARAM_SIZE_HINT]: plain.length },
  });
  if (plain.length > WORTH_IT && small.length < plain.length) writeFileSync(`${path}.br`, small);
  const onDemand = /console|terminal|screen/i.test(path);
  if (!onDemand) firstView += Math.min(small.length, statSync(path).size);
  process.stdout.write(`${path.slice(dist.length).padEnd(40)} ${plain.length} bytes, ${small.length} compressed\n`);
}
process.stdout.write(`without what is loaded on demand: ${firstView} bytes compressed\n`);
if (firstView > FIRST_VIEW_MAX) {
  process.stderr.write(`the page has grown past ${FIRST_VIEW_MAX} bytes: load more of it on demand\n`);
  process.exit(1);
}
