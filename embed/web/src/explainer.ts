/** One file that explains, on whatever ONNX Runtime it is given: onnxruntime-web or onnxruntime-node. */
import type { InferenceSession, Tensor } from "onnxruntime-web";

import { SightlineError } from "./error.ts";
import { type Facts, imageInput, readFacts, valuesInput } from "./facts.ts";
import type { Picture } from "./picture.ts";

/** As much of ONNX Runtime as is used. */
export interface Runtime {
  InferenceSession: { create(file: Uint8Array, options?: InferenceSession.SessionOptions): Promise<InferenceSession> };
  Tensor: new (type: any, values: any, shape: readonly number[]) => Tensor;
}

/** What one call may choose. What is left out is the file's own choice. */
export interface Choice {
  /** The class to explain; otherwise the predicted one. */
  target?: number;
  /** 0 <= mu < 1: maps above this share of the largest gradient are scored. */
  mu?: number;
  /** At most so many masks are scored. */
  maxPasses?: number;
}

/** Why a network gave a class its score. */
export interface Explanation {
  /** The class explained, and its label (its number where the file has no labels). */
  target: number;
  label: string;
  /** What the network gives the class on the whole picture. */
  score: number;
  logits: Float32Array;
  probabilities: Float32Array;
  /** Masked images scored. */
  passes: number;
  /** The map: height×width in [0, 1]; all zero where nothing can be shown. */
  width: number;
  height: number;
  saliency: Float32Array;
}

export class Explainer {
  private constructor(
    readonly facts: Facts,
    private readonly runtime: Runtime,
    private session: InferenceSession | null,
  ) {}

  /** Opens a file of 'sightline export --single-file'. */
  static async open(runtime: Runtime, file: Uint8Array, options?: InferenceSession.SessionOptions): Promise<Explainer> {
    const facts = readFacts(file);
    try {
      return new Explainer(facts, runtime, await runtime.InferenceSession.create(file, { logSeverityLevel: 3, ...options }));
    } catch (error) {
      throw new SightlineError(`ONNX Runtime cannot open this file: ${message(error)}`);
    }
  }

  /** Which of target, mu and maxPasses the file takes. */
  get choices(): (keyof Choice)[] {
    const names: [string, keyof Choice][] = [["target", "target"], ["mu", "mu"], ["max_passes", "maxPasses"]];
    return names.filter(([input]) => this.open().inputNames.includes(input)).map(([, choice]) => choice);
  }

  /** The label of a class, or its number where the file has no labels. */
  label(target: number): string {
    return this.facts.labels?.[target] ?? String(target);
  }

  /**
   * Explains a picture of the network's size (see fittedFor()), or an image that is already preprocessed. Throws
   * SightlineError where it has another size, or a choice is out of range or not among the file's inputs.
   */
  async explain(image: Picture | Float32Array, choice: Choice = {}): Promise<Explanation> {
    const session = this.open();
    const { values, shape } =
      image instanceof Float32Array ? valuesInput(image, this.facts) : imageInput(image, this.facts);
    this.check(choice);
    const { Tensor } = this.runtime;
    const integer = (value: number | undefined) => new Tensor("int64", BigInt64Array.of(BigInt(value ?? -1)), [1]);
    const known: Record<string, () => Tensor> = {
      image: () => new Tensor(values instanceof Float32Array ? "float32" : "uint8", values, shape),
      target: () => integer(choice.target),
      mu: () => new Tensor("float32", Float32Array.of(choice.mu ?? -1), [1]),
      max_passes: () => integer(choice.maxPasses),
    };
    const feeds: Record<string, Tensor> = {};
    for (const name of session.inputNames) {
      const make = known[name];
      if (!make) throw new SightlineError(`the file has an input ${name} that this program does not know: use a newer one.`);
      feeds[name] = make();
    }
    let found: Record<string, Tensor>;
    try {
      found = (await session.run(feeds)) as Record<string, Tensor>;
    } catch (error) {
      throw new SightlineError(`ONNX Runtime: ${message(error)}`);
    }
    const floats = (name: string) => Float32Array.from(found[name]!.data as Float32Array);
    const number = (name: string) => Number((found[name]!.data as BigInt64Array)[0]);
    const target = number("explained");
    const probabilities = floats("probabilities");
    const explanation: Explanation = {
      target,
      label: this.label(target),
      score: probabilities[target]!,
      logits: floats("logits"),
      probabilities,
      passes: number("passes"),
      width: this.facts.width,
      height: this.facts.height,
      saliency: floats("saliency"),
    };
    for (const tensor of Object.values(found)) tensor.dispose?.();
    if (!explanation.saliency.every(Number.isFinite)) {
      throw new SightlineError("the map holds NaN or infinity: the network's own values overflow on this picture.");
    }
    return explanation;
  }

  /** Gives the engine's memory back. */
  async close(): Promise<void> {
    const session = this.session;
    this.session = null;
    await session?.release();
  }

  private open(): InferenceSession {
    if (!this.session) throw new SightlineError("this explainer is closed: open the file again.");
    return this.session;
  }

  private get classes(): number | null {
    const found = this.open().outputMetadata?.find((output) => output.name === "logits");
    const last = found?.isTensor ? found.shape[found.shape.length - 1] : undefined;
    return typeof last === "number" ? last : (this.facts.labels?.length ?? null);
  }

  /** Refuses bad values that the graph itself could not name, and choices that the file leaves no room for. */
  private check({ target, mu, maxPasses }: Choice): void {
    const classes = this.classes ?? Infinity;
    if (target !== undefined && !(Number.isInteger(target) && target >= 0 && target < classes)) {
      throw new SightlineError(
        `there is no class ${target}: pass 0 to ${classes - 1}, or leave the target out for the predicted class.`,
      );
    }
    if (mu !== undefined && !(mu >= 0 && mu < 1)) {
      throw new SightlineError(`mu is ${mu}: pass a value from 0 to below 1, or leave it out.`);
    }
    if (maxPasses !== undefined && !(Number.isInteger(maxPasses) && maxPasses >= 1)) {
      throw new SightlineError(`maxPasses is ${maxPasses}: pass 1 or more, or leave it out.`);
    }
    for (const [name, value] of Object.entries({ target, mu, maxPasses })) {
      if (value !== undefined && !this.choices.includes(name as keyof Choice)) {
        throw new SightlineError(`the file has no input ${name}: leave it out, or export the file with that input (--inputs).`);
      }
    }
  }
}

function message(error: unknown): string {
  return error instanceof Error ? error.message : String(error);
}
