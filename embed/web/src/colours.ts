/** Inferno: even in lightness, so colour-blind readers lose nothing. */
const STOPS = [0x000004, 0x160b39, 0x420a68, 0x6a176e, 0x932667, 0xbc3754, 0xdd513a, 0xf37819, 0xfca50a, 0xf6d746, 0xfcffa4];

/**
 * The map as RGBA pixels to be laid over a picture: clear where the map is low, the map's colours where it is high.
 * Drawn with an opacity of 0.8 it is the overlay that Sightline draws in Python.
 */
export function mapPixels(map: Float32Array): Uint8ClampedArray<ArrayBuffer> {
  const pixels = new Uint8ClampedArray(map.length * 4);
  for (let i = 0; i < map.length; i++) {
    const position = Math.min(Math.max(map[i]!, 0), 1) * (STOPS.length - 1);
    const lower = Math.min(Math.trunc(position), STOPS.length - 2);
    const share = position - lower;
    for (let c = 0; c < 3; c++) {
      const shift = 16 - 8 * c;
      pixels[4 * i + c] = ((STOPS[lower]! >> shift) & 255) * (1 - share) + ((STOPS[lower + 1]! >> shift) & 255) * share;
    }
    pixels[4 * i + 3] = 255 * Math.min(2 * map[i]!, 1);
  }
  return pixels;
}
