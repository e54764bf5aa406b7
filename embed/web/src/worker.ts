/** Where the network runs: beside the page, so that the page stays awake. */
import { Explainer, type Runtime } from "./explainer.ts";
import { fittedFor, readFacts } from "./facts.ts";
import type { Answer, Engine, Opened, Reply, Request } from "./protocol.ts";
import { findRegions } from "./regions.ts";

/** As much of a worker as is used: TypeScript knows either the page or the worker, not both. */
interface Port {
  onmessage: ((event: MessageEvent<Request>) => void) | null;
  postMessage(reply: Reply): void;
}
const port = self as unknown as Port;

let explainer: Explainer | null = null;
let last: Promise<unknown> = Promise.resolve();

// One after the other: a session runs one call at a time.
port.onmessage = ({ data }) => {
  last = last.then(() => answer(data)).then(
    (reply) => port.postMessage(reply),
    (error: unknown) => port.postMessage({ id: data.id, kind: "failed", reason: reason(error) }),
  );
};

async function answer(request: Request): Promise<Reply> {
  const { id } = request;
  if (request.kind === "open") return { id, kind: "opened", value: await open(request.file, request.engine) };
  if (!explainer) throw new Error("no file is open");
  const { picture, choice } = request;
  const started = performance.now();
  const found = await explainer.explain(fittedFor(picture, explainer.facts), choice);
  const value: Answer = {
    ...found,
    regions: findRegions(found.saliency, found.width, found.height, picture.width, picture.height),
    milliseconds: performance.now() - started,
  };
  return { id, kind: "explained", value };
}

async function open(file: Blob, engine: Engine): Promise<Opened> {
  const bytes = new Uint8Array(await file.arrayBuffer());
  readFacts(bytes); // a file that is none is not the GPU's fault
  let refused: string | null = null;
  let made: Explainer | null = null;
  if (engine === "webgpu") {
    try {
      made = await start("webgpu", bytes);
    } catch (error) {
      refused = reason(error);
    }
  }
  made ??= await start("wasm", bytes);
  await explainer?.close();
  explainer = made;
  return {
    facts: made.facts,
    choices: made.choices,
    engine: engine === "webgpu" && refused === null ? "webgpu" : "wasm",
    threads: threads(),
    refused,
  };
}

/** The two builds of ONNX Runtime are large: only the one that is used is loaded. */
async function start(engine: Engine, bytes: Uint8Array): Promise<Explainer> {
  const ort = engine === "webgpu" ? await import("onnxruntime-web/webgpu") : await import("onnxruntime-web/wasm");
  ort.env.logLevel = "error";
  ort.env.wasm.wasmPaths = new URL("ort/", self.location.href).href;
  ort.env.wasm.numThreads = threads();
  if (engine === "webgpu") await probeGpu();
  return Explainer.open(ort as Runtime, bytes, { executionProviders: [engine] });
}

/** Threads share memory, which browsers allow only to pages that are isolated (COOP and COEP headers). */
function threads(): number {
  return self.crossOriginIsolated ? Math.min(navigator.hardwareConcurrency || 1, 8) : 1;
}

async function probeGpu(): Promise<void> {
  const gpu = (navigator as { gpu?: { requestAdapter(): Promise<unknown> } }).gpu;
  if (!gpu) throw new Error("this browser has no WebGPU");
  if (!(await gpu.requestAdapter())) throw new Error("this browser found no GPU for WebGPU");
}

function reason(error: unknown): string {
  return error instanceof Error ? error.message : String(error);
}
