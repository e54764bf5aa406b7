/** Regions: the connected parts of a saliency map that stand out, as boxes that a line can act on. */

/** One connected part (8 neighbours) of the map at or above Otsu's threshold. */
export interface Region {
  /** x0, y0, x1, y1 in pixels of the original picture; x1 and y1 are exclusive. */
  box: [number, number, number, number];
  /** In pixels of the original picture. */
  area: number;
  /** Mean saliency, in [0, 1]. */
  mean: number;
  /** Highest saliency, in [0, 1]. */
  peak: number;
  /** Share of the whole map's saliency that lies here, in [0, 1]. */
  mass: number;
}

const BINS = 256;

/** Otsu's threshold of values in [0, 1], the first best split; null where they cannot be split. */
export function otsu(map: Float32Array): number | null {
  const counts = new Float64Array(BINS);
  for (const value of map) counts[Math.min(Math.max(Math.trunc(value * BINS), 0), BINS - 1)]! += 1;
  let moments = 0;
  for (let i = 0; i < BINS; i++) moments += i * counts[i]!;
  let [number, moment, best] = [0, 0, -1];
  let threshold: number | null = null;
  for (let i = 0; i < BINS; i++) {
    number += counts[i]!;
    moment += i * counts[i]!;
    const product = number * (map.length - number);
    if (product === 0) continue;
    // w₀·w₁·(m₀ − m₁)² but for a constant, of whole numbers: splits that tie, tie exactly.
    const spread = moments * number - map.length * moment;
    const value = (spread * spread) / product;
    if (value > best) [best, threshold] = [value, (i + 1) / BINS];
  }
  return threshold;
}

/** The regions of a height×width map in [0, 1], by falling mass, scaled to a picture's size. */
export function findRegions(
  map: Float32Array,
  width: number,
  height: number,
  pictureWidth: number,
  pictureHeight: number,
): Region[] {
  const threshold = otsu(map);
  if (threshold === null) return [];
  const total = map.reduce((a, b) => a + b, 0);
  const [across, down] = [pictureWidth / width, pictureHeight / height];
  const seen = new Uint8Array(map.length);
  const found: Region[] = [];
  for (let start = 0; start < map.length; start++) {
    if (seen[start] || map[start]! < threshold) continue;
    let [left, right, top, bottom] = [width, -1, height, -1];
    let [pixels, sum, peak] = [0, 0, 0];
    seen[start] = 1;
    const waiting = [start];
    for (let at = waiting.pop(); at !== undefined; at = waiting.pop()) {
      const x = at % width;
      const y = (at - x) / width;
      const value = map[at]!;
      pixels += 1;
      sum += value;
      peak = Math.max(peak, value);
      left = Math.min(left, x);
      right = Math.max(right, x);
      top = Math.min(top, y);
      bottom = Math.max(bottom, y);
      for (let ny = Math.max(y - 1, 0); ny <= Math.min(y + 1, height - 1); ny++) {
        for (let nx = Math.max(x - 1, 0); nx <= Math.min(x + 1, width - 1); nx++) {
          const next = ny * width + nx;
          if (seen[next] || map[next]! < threshold) continue;
          seen[next] = 1;
          waiting.push(next);
        }
      }
    }
    found.push({
      // Multiplied first: a quotient that is rounded first may lie beyond the picture.
      box: [
        Math.floor((left * pictureWidth) / width),
        Math.floor((top * pictureHeight) / height),
        Math.ceil(((right + 1) * pictureWidth) / width),
        Math.ceil(((bottom + 1) * pictureHeight) / height),
      ],
      area: pixels * across * down,
      mean: sum / pixels,
      peak,
      mass: sum / total,
    });
  }
  return found.sort((a, b) => b.mass - a.mass || firstDifference(a.box, b.box));
}

function firstDifference(a: readonly number[], b: readonly number[]): number {
  return a.map((value, i) => value - b[i]!).find((difference) => difference !== 0) ?? 0;
}
