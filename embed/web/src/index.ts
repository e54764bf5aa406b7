/** What a program of yours imports. */
export { mapPixels } from "./colours.ts";
export { SightlineError } from "./error.ts";
export { type Choice, Explainer, type Explanation, type Runtime } from "./explainer.ts";
export { type Facts, fittedFor, readFacts } from "./facts.ts";
export { fitted, fromRgba, type Picture, resizedMap } from "./picture.ts";
export { findRegions, type Region } from "./regions.ts";
