// Explains pictures in Node with the built library, and tries what must be refused. Prints one JSON.
//
//   node node.mjs DIST EXPLAINER.onnx PIXELS.rgb WIDTH HEIGHT MAP.f32 [RESIZED.rgb WIDTH HEIGHT]
import { readFile, writeFile } from "node:fs/promises";
import { join, resolve } from "node:path";
import { pathToFileURL } from "node:url";

import * as ort from "onnxruntime-web";

const [dist, model, pixels, width, height, map, resized, newWidth, newHeight] = process.argv.slice(2);
const { Explainer, findRegions, fitted, fittedFor } = await import(pathToFileURL(join(resolve(dist), "sightline.js")).href);

ort.env.wasm.numThreads = 1;
ort.env.logLevel = "error";
const file = new Uint8Array(await readFile(model));
const picture = { width: Number(width), height: Number(height), rgb: new Uint8Array(await readFile(pixels)) };
const explainer = await Explainer.open(ort, file);
const { facts } = explainer;
const fit = fittedFor(picture, facts);
const found = await explainer.explain(fit);
await writeFile(map, new Uint8Array(found.saliency.buffer));
if (resized) await writeFile(resized, fitted(picture, Number(newWidth), Number(newHeight)).rgb);

const other = (found.target + 1) % found.logits.length;
const again = await explainer.explain(fit, { target: found.target });
const different = await explainer.explain(fit, { target: other });

async function refusal(call) {
  try {
    await call();
  } catch (error) {
    return `${error.name}: ${error.message}`;
  }
  return "nothing was thrown";
}
const small = fitted(picture, 100, 50);
const refused = {
  size: await refusal(() => explainer.explain(small)),
  type: await refusal(() => explainer.explain({ ...fit, rgb: Array.from(fit.rgb) })),
  bytes: await refusal(() => explainer.explain({ ...fit, rgb: fit.rgb.subarray(5) })),
  values: await refusal(() => explainer.explain(new Float32Array(5))),
  target: await refusal(() => explainer.explain(fit, { target: 1000 })),
  next: await refusal(() => explainer.explain(fit, { target: found.logits.length })),
  negative: await refusal(() => explainer.explain(fit, { target: -7 })),
  mu: await refusal(() => explainer.explain(fit, { mu: 1.5 })),
  input: await refusal(() => explainer.explain(fit, { maxPasses: 5 })),
  file: await refusal(() => Explainer.open(ort, new TextEncoder().encode("no model at all"))),
  truncated: await refusal(() => Explainer.open(ort, file.subarray(0, file.length / 2))),
};
const after = await explainer.explain(fit);
await explainer.close();
refused.closed = await refusal(() => explainer.explain(fit));

const same = (a, b) => a.every((value, i) => value === b[i]);
console.log(
  JSON.stringify({
    label: found.label,
    target: found.target,
    score: found.score,
    passes: found.passes,
    logits: [...found.logits],
    regions: findRegions(found.saliency, found.width, found.height, picture.width, picture.height),
    again: same(found.saliency, again.saliency),
    after: same(found.saliency, after.saliency),
    other: { wanted: other, target: different.target, same: same(found.saliency, different.saliency) },
    labels: facts.labels,
    byHand: {
      split: findRegions(Float32Array.of(0.25, 0.5, 0.75, 0.25, 0.5, 0.75), 3, 2, 30, 20),
      corner: findRegions(Float32Array.of(1, 0, 0, 0, 1, 0, 0, 0, 0), 3, 3, 3, 3).length,
      apart: findRegions(Float32Array.of(1, 0, 1, 0), 4, 1, 4, 1).length,
      flat: findRegions(Float32Array.of(0.5, 0.5), 2, 1, 2, 1).length,
    },
    refused,
  }),
);
