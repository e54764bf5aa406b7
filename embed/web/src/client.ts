/** The worker, as the page sees it: calls that are answered, and can be stopped. */
import type { Choice } from "./explainer.ts";
import type { Picture } from "./picture.ts";
import type { Answer, Engine, Opened, Reply, Request } from "./protocol.ts";

/** Thrown out of what was under way when stop() was called. */
export class Stopped extends Error {}

type Body<R> = R extends Request ? Omit<R, "id"> : never;

export class Client {
  private worker: Worker | undefined;
  private waiting = new Map<number, { resolve(value: any): void; reject(error: Error): void }>();
  private next = 0;

  constructor(private readonly script: URL) {}

  open(file: Blob, engine: Engine): Promise<Opened> {
    return this.send({ kind: "open", file, engine }) as Promise<Opened>;
  }

  explain(picture: Picture, choice: Choice): Promise<Answer> {
    return this.send({ kind: "explain", picture, choice }) as Promise<Answer>;
  }

  /** Ends whatever is under way. A run cannot be interrupted, so its worker goes; the file must be opened again. */
  stop(): void {
    this.worker?.terminate();
    this.worker = undefined;
    this.fail(new Stopped("stopped"));
  }

  private send(body: Body<Request>): Promise<unknown> {
    this.worker ??= this.start();
    const id = this.next++;
    return new Promise((resolve, reject) => {
      this.waiting.set(id, { resolve, reject });
      this.worker!.postMessage({ id, ...body });
    });
  }

  private start(): Worker {
    const worker = new Worker(this.script, { type: "module" });
    worker.onmessage = ({ data }: MessageEvent<Reply>) => {
      const call = this.waiting.get(data.id);
      this.waiting.delete(data.id);
      if (data.kind === "failed") call?.reject(new Error(data.reason));
      else call?.resolve(data.value);
    };
    worker.onerror = (event) => this.fail(new Error(event.message || "the worker could not be loaded"));
    return worker;
  }

  private fail(error: Error): void {
    for (const call of this.waiting.values()) call.reject(error);
    this.waiting.clear();
  }
}
