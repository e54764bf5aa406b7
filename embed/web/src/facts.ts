/** What the file says of itself, and from a picture to its input. */
import { SightlineError } from "./error.ts";
import { metadata } from "./metadata.ts";
import { checkPicture, fitted, type Picture } from "./picture.ts";

export interface Facts {
  channels: number;
  height: number;
  width: number;
  /** Of a preprocessed image. */
  layout: "NCHW" | "NHWC";
  /** NONE: the channels are no colours. */
  colour: "RGB" | "BGR" | "GRAY" | "NONE";
  /** A pixel v becomes (v / 255 · range − mean) / std. */
  range: number;
  mean: number[];
  std: number[];
  /** Whether the file takes 8-bit pixels and normalises them itself, or preprocessed values. */
  pixels: "uint8" | "float32";
  /** Null where the file has none. */
  labels: string[] | null;
  activation: "softmax" | "sigmoid" | "none";
  method: { name: string; parameters: Record<string, unknown>; batch_size?: number };
  /** SHA-256 of the bundle that the file was made of. */
  bundle: string;
}

export function readFacts(file: Uint8Array): Facts {
  const found = metadata(file);
  const text = (key: string): string => {
    const value = found.get(`sightline.${key}`);
    if (value === undefined) {
      throw new SightlineError(
        `this ONNX file has no sightline.${key} in its metadata: make the file with 'sightline export --single-file'.`,
      );
    }
    return value;
  };
  const version = text("single_file");
  if (version !== "1") {
    throw new SightlineError(
      `this file is of version ${version} and this program reads version 1: use that of the Sightline that wrote it.`,
    );
  }
  const json = (key: string): any => {
    try {
      return JSON.parse(text(key));
    } catch (error) {
      if (!(error instanceof SyntaxError)) throw error;
      throw new SightlineError(`sightline.${key} in the file's metadata is no JSON: export the file again.`);
    }
  };
  return {
    ...json("input"),
    pixels: text("pixels"),
    labels: json("labels"),
    activation: text("activation"),
    method: json("method"),
    bundle: text("bundle"),
  };
}

/**
 * The picture as the network of a file wants it: of its size, and grey before it is resized where the network takes grey,
 * as Sightline in Python does it.
 */
export function fittedFor(picture: Picture, facts: Facts): Picture {
  checkPicture(picture);
  if (facts.colour !== "GRAY") return fitted(picture, facts.width, facts.height);
  const planes = grey(picture.rgb);
  return fitted({ ...picture, rgb: picture.rgb.map((_, i) => planes[Math.trunc(i / 3)]!) }, facts.width, facts.height);
}

/** The image as the file takes it: its values and their shape. Throws where the picture has another size. */
export function imageInput(picture: Picture, facts: Facts): { values: Uint8Array | Float32Array; shape: number[] } {
  checkPicture(picture);
  const { channels, height, width, colour } = facts;
  if (colour === "NONE") {
    throw new SightlineError("this network's channels are no colours: pass its preprocessed values (a Float32Array).");
  }
  if (picture.width !== width || picture.height !== height) {
    throw new SightlineError(
      `the picture has ${picture.width}×${picture.height} pixels and the network takes ${width}×${height}: ` +
        "pass fittedFor(picture, explainer.facts).",
    );
  }
  const planes = colour === "GRAY" ? grey(picture.rgb) : picture.rgb;
  const depth = colour === "GRAY" ? 1 : 3;
  if (facts.pixels === "uint8") return { values: planes, shape: [height, width, depth] };
  const count = width * height;
  const values = new Float32Array(channels * count);
  const range = Math.fround(facts.range / 255);
  for (let c = 0; c < channels; c++) {
    const from = colour === "BGR" ? 2 - c : c;
    const mean = Math.fround(facts.mean[c % facts.mean.length]!);
    const std = Math.fround(facts.std[c % facts.std.length]!);
    for (let i = 0; i < count; i++) {
      const value = Math.fround(Math.fround(Math.fround(planes[i * depth + from]! * range) - mean) / std);
      values[facts.layout === "NHWC" ? i * channels + c : c * count + i] = value;
    }
  }
  return { values, shape: imageShape(facts) };
}

/** A preprocessed image as the file takes it. */
export function valuesInput(values: Float32Array, facts: Facts): { values: Float32Array; shape: number[] } {
  const { channels, height, width } = facts;
  if (facts.pixels === "uint8") {
    throw new SightlineError("this file takes 8-bit pixels and normalises them itself: pass a picture.");
  }
  if (values.length !== channels * height * width) {
    throw new SightlineError(
      `the image has ${values.length} values and the network takes ${channels * height * width} ` +
        `(${channels}×${height}×${width}): preprocess it as for the network.`,
    );
  }
  if (!values.every(Number.isFinite)) {
    throw new SightlineError("the image holds NaN or infinity: repair it before explaining it.");
  }
  return { values, shape: imageShape(facts) };
}

function imageShape({ channels, height, width, layout }: Facts): number[] {
  return layout === "NHWC" ? [1, height, width, channels] : [1, channels, height, width];
}

/** Luminance, ITU-R 601, in Pillow's fixed point. */
function grey(rgb: Uint8Array): Uint8Array {
  const made = new Uint8Array(rgb.length / 3);
  for (let i = 0; i < made.length; i++) {
    made[i] = (rgb[3 * i]! * 19595 + rgb[3 * i + 1]! * 38470 + rgb[3 * i + 2]! * 7471 + 0x8000) >>> 16;
  }
  return made;
}
