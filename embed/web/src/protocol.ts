/** What the page and its worker say to each other. */
import type { Choice, Explanation } from "./explainer.ts";
import type { Facts } from "./facts.ts";
import type { Picture } from "./picture.ts";
import type { Region } from "./regions.ts";

export type Engine = "webgpu" | "wasm";

/** The file as it was opened. */
export interface Opened {
  facts: Facts;
  choices: (keyof Choice)[];
  engine: Engine;
  threads: number;
  /** Why WebGPU was not used although it was asked for. */
  refused: string | null;
}

/** An explanation of a picture of any size. */
export interface Answer extends Explanation {
  /** In pixels of the picture as it was given. */
  regions: Region[];
  milliseconds: number;
}

export type Request =
  | { id: number; kind: "open"; file: Blob; engine: Engine }
  | { id: number; kind: "explain"; picture: Picture; choice: Choice };

export type Reply =
  | { id: number; kind: "opened"; value: Opened }
  | { id: number; kind: "explained"; value: Answer }
  | { id: number; kind: "failed"; reason: string };
