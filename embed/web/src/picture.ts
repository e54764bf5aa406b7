/** Pictures, and how they come to the network's size. */
import { SightlineError } from "./error.ts";

/** 8-bit RGB, row after row: three bytes a pixel. */
export interface Picture {
  width: number;
  height: number;
  rgb: Uint8Array;
}

/** Of what a canvas gives; transparency is ignored, not blended. */
export function fromRgba(image: { width: number; height: number; data: ArrayLike<number> }): Picture {
  const rgb = new Uint8Array(image.width * image.height * 3);
  for (let from = 0, to = 0; to < rgb.length; from += 4, to += 3) {
    rgb[to] = image.data[from]!;
    rgb[to + 1] = image.data[from + 1]!;
    rgb[to + 2] = image.data[from + 2]!;
  }
  return { width: image.width, height: image.height, rgb };
}

export function checkPicture(picture: Picture): void {
  const { width, height, rgb } = picture;
  if (!(Number.isInteger(width) && Number.isInteger(height) && width > 0 && height > 0)) {
    throw new SightlineError(`the picture is empty (${width}×${height} pixels): pass one with pixels.`);
  }
  if (!(rgb instanceof Uint8Array)) {
    throw new SightlineError("the pixels of a picture are a Uint8Array of RGB: make one with fromRgba().");
  }
  if (rgb.length !== width * height * 3) {
    throw new SightlineError(
      `a picture of ${width}×${height} pixels has ${width * height * 3} bytes of RGB, not ${rgb.length}: ` +
        "pass three bytes a pixel, unpadded (fromRgba() drops the fourth).",
    );
  }
}

/**
 * The picture stretched to a size: bilinear and antialiased, byte for byte what Pillow (and Sightline in Python) makes.
 */
export function fitted(picture: Picture, width: number, height: number): Picture {
  checkPicture(picture);
  if (!(Number.isInteger(width) && Number.isInteger(height) && width > 0 && height > 0)) {
    throw new SightlineError(`a picture cannot be stretched to ${width}×${height} pixels: pass a size of 1 or more.`);
  }
  return { width, height, rgb: resize(picture.rgb, picture.width, picture.height, 3, width, height, bytes) };
}

/** A map at another size: height×width in [0, 1]. */
export function resizedMap(map: Float32Array, width: number, height: number, newWidth: number, newHeight: number): Float32Array {
  const made = resize(map, width, height, 1, newWidth, newHeight, reals);
  return made.map((value) => Math.min(Math.max(value, 0), 1));
}

interface Kind<Values> {
  make(length: number): Values;
  weight(weight: number): number;
  value(sum: number): number;
}

// Pillow's fixed point, so that the pixels are the very same. Weights have 22 bits, pixels 8, and a sum of them fits a
// double exactly.
const ONE = 2 ** 22;
const bytes: Kind<Uint8Array> = {
  make: (length) => new Uint8Array(length),
  weight: (weight) => Math.floor(0.5 + weight * ONE),
  value: (sum) => Math.min(Math.max(Math.floor((sum + ONE / 2) / ONE), 0), 255),
};
const reals: Kind<Float32Array> = {
  make: (length) => new Float32Array(length),
  weight: (weight) => weight,
  value: (sum) => sum,
};

function resize<Values extends Uint8Array | Float32Array>(
  values: Values,
  width: number,
  height: number,
  channels: number,
  newWidth: number,
  newHeight: number,
  kind: Kind<Values>,
): Values {
  const wide = resizeAxis(values, height, width, newWidth, channels, kind);
  return resizeAxis(wide, 1, height, newHeight, newWidth * channels, kind);
}

/** One axis: `outer` lines of `source` points, `step` values each, become lines of `size` points. */
function resizeAxis<Values extends Uint8Array | Float32Array>(
  values: Values,
  outer: number,
  source: number,
  size: number,
  step: number,
  kind: Kind<Values>,
): Values {
  if (source === size) return values;
  const made = kind.make(outer * size * step);
  const sums = new Float64Array(step);
  for (const [i, { first, weights }] of taps(source, size).entries()) {
    const scaled = weights.map(kind.weight);
    for (let line = 0; line < outer; line++) {
      sums.fill(0);
      for (const [k, weight] of scaled.entries()) {
        const from = (line * source + first + k) * step;
        for (let s = 0; s < step; s++) sums[s]! += weight * values[from + s]!;
      }
      const to = (line * size + i) * step;
      for (let s = 0; s < step; s++) made[to + s] = kind.value(sums[s]!);
    }
  }
  return made;
}

/** The triangle filter, widened when shrinking (antialiasing): the samples that Pillow's BILINEAR takes. */
function taps(source: number, size: number): { first: number; weights: number[] }[] {
  const scale = source / size;
  const support = Math.max(scale, 1);
  return Array.from({ length: size }, (_, i) => {
    const centre = (i + 0.5) * scale;
    const first = Math.max(Math.trunc(centre - support + 0.5), 0);
    const end = Math.min(Math.trunc(centre + support + 0.5), source);
    const weights = [];
    for (let x = first; x < end; x++) weights.push(Math.max(0, 1 - Math.abs((x - centre + 0.5) / support)));
    const sum = weights.reduce((a, b) => a + b, 0);
    return { first, weights: weights.map((weight) => weight / sum) };
  });
}
