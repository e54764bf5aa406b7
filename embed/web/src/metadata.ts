/** The metadata of an ONNX file, read from its bytes: onnxruntime-web does not hand it out. */
import { SightlineError } from "./error.ts";

const METADATA_PROPS = 14; // of ModelProto: entries with key = 1 and value = 2

export function metadata(file: Uint8Array): Map<string, string> {
  const found = new Map<string, string>();
  const text = new TextDecoder();
  try {
    for (const { number, content } of fields(file)) {
      if (number !== METADATA_PROPS || !content) continue;
      const entry = new Map<number, string>();
      for (const part of fields(content)) if (part.content) entry.set(part.number, text.decode(part.content));
      found.set(entry.get(1) ?? "", entry.get(2) ?? "");
    }
  } catch (error) {
    if (!(error instanceof RangeError)) throw error;
    throw new SightlineError(`this is no ONNX file (${error.message}): make one with 'sightline export --single-file'.`);
  }
  return found;
}

/** The fields of a protobuf message; plain numbers have no content. Throws RangeError where it is none. */
function* fields(message: Uint8Array): Generator<{ number: number; content?: Uint8Array }> {
  let at = 0;
  const varint = (): number => {
    let value = 0;
    for (let scale = 1; scale < 2 ** 70; scale *= 128) {
      const byte = message[at++];
      if (byte === undefined) throw new RangeError("truncated");
      value += (byte & 0x7f) * scale;
      if (byte < 0x80) return value;
    }
    throw new RangeError("a number without an end");
  };
  while (at < message.length) {
    const key = varint();
    const number = Math.floor(key / 8);
    const kind = key % 8;
    if (kind === 0) varint();
    else if (kind === 1) at += 8;
    else if (kind === 5) at += 4;
    else if (kind !== 2) throw new RangeError("unknown wire type");
    if (kind !== 2) {
      yield { number };
      continue;
    }
    const length = varint();
    if (length > message.length - at) throw new RangeError("truncated");
    yield { number, content: message.subarray(at, at + length) };
    at += length;
  }
}
