// Builds the page: static files in dist/, to be served from anywhere.
//
//   node build.mjs [--explainer FILE.onnx] [--samples FOLDER] [--output FOLDER]
import { cp, mkdir, readdir, rm, writeFile } from "node:fs/promises";
import { createRequire } from "node:module";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";
import { parseArgs } from "node:util";

import { build } from "esbuild";

const here = dirname(fileURLToPath(import.meta.url));
const { values } = parseArgs({
  options: {
    explainer: { type: "string" },
    samples: { type: "string" },
    output: { type: "string", default: join(here, "dist") },
  },
});
const { explainer, samples, output } = values;

await rm(output, { recursive: true, force: true });
await mkdir(join(output, "ort"), { recursive: true });
await build({
  absWorkingDir: here,
  entryPoints: { page: "src/page.ts", worker: "src/worker.ts", style: "src/style.css" },
  outdir: output,
  bundle: true,
  splitting: true,
  format: "esm",
  target: "es2022",
  minify: true,
  logLevel: "warning",
});
// The same for Node and for pages of yours, ONNX Runtime left outside.
await build({
  absWorkingDir: here,
  entryPoints: { sightline: "src/index.ts" },
  outdir: output,
  bundle: true,
  format: "esm",
  target: "es2022",
  logLevel: "warning",
});

await cp(join(here, "index.html"), join(output, "index.html"));
const ort = dirname(createRequire(import.meta.url).resolve("onnxruntime-web"));
for (const kind of ["", ".asyncify"]) {
  for (const suffix of ["mjs", "wasm"]) {
    const name = `ort-wasm-simd-threaded${kind}.${suffix}`;
    await cp(join(ort, name), join(output, "ort", name));
  }
}
if (explainer) await cp(explainer, join(output, "explainer.onnx"));
const pictures = samples ? (await readdir(samples)).filter((name) => /\.(jpe?g|png|webp)$/i.test(name)).sort() : [];
const shown = pictures.filter((name) => !name.includes(".mask."));
for (const name of shown) await cp(join(samples, name), join(output, "samples", name));
await writeFile(join(output, "samples.json"), JSON.stringify(shown));
