"use strict";
// Support maps as pixels. A map is laid over the image as Explanation.overlay() does it: nothing where it is low, the
// colours of inferno where it is high.
const heat = (() => {
  const STRENGTH = 0.8; // how much of the image the highest value covers
  let colours = []; // 256 × [r, g, b]

  const bytes = (text) => Uint8Array.from(atob(text), (character) => character.charCodeAt(0));

  /** A map of the document, decoded: values in [0, 1] and what 1 stands for. */
  const decode = (map) => {
    const coded = bytes(map.data);
    return { height: map.height, width: map.width, max: map.max, values: Float32Array.from(coded, (value) => value / 255) };
  };

  /** Several maps as one, at the size of the finest: what they show together. */
  const together = (maps) => {
    if (!maps.length) return null;
    const height = Math.max(...maps.map((map) => map.height));
    const width = Math.max(...maps.map((map) => map.width));
    const values = new Float32Array(height * width);
    for (const map of maps) {
      const scaled = sample(map, [0, 0, width, height], [width, height], width, height);
      for (let at = 0; at < values.length; at++) values[at] += scaled[at] * map.max;
    }
    const max = values.reduce((most, value) => Math.max(most, value), 0);
    return { height, width, max, values: max > 0 ? values.map((value) => value / max) : values };
  };

  // Bilinear with half-pixel centres, as everything in Sightline is enlarged.
  const taps = (from, to, image, cells, count) => {
    const found = [];
    for (let at = 0; at < count; at++) {
      const pixel = from + ((at + 0.5) * (to - from)) / count;
      const place = Math.min(Math.max((pixel / image) * cells - 0.5, 0), cells - 1);
      const low = Math.floor(place);
      found.push([low, Math.min(low + 1, cells - 1), place - low]);
    }
    return found;
  };

  /** The part of a map over box (pixels of an image of the given size), as width × height values. */
  const sample = (map, [left, top, right, bottom], [imageWidth, imageHeight], width, height) => {
    const columns = taps(left, right, imageWidth, map.width, width);
    const rows = taps(top, bottom, imageHeight, map.height, height);
    const out = new Float32Array(width * height);
    let at = 0;
    for (const [above, below, down] of rows) {
      for (const [before, after, along] of columns) {
        const first = map.values[above * map.width + before] * (1 - along) + map.values[above * map.width + after] * along;
        const second = map.values[below * map.width + before] * (1 - along) + map.values[below * map.width + after] * along;
        out[at++] = first * (1 - down) + second * down;
      }
    }
    return out;
  };

  /** Lay a map over what a canvas shows of box. */
  const paint = (canvas, map, box, size) => {
    const { width, height } = canvas;
    const values = sample(map, box, size, width, height);
    const pixels = new ImageData(width, height);
    values.forEach((value, at) => {
      const colour = colours[Math.round(value * 255)];
      pixels.data.set(colour, 4 * at);
      pixels.data[4 * at + 3] = 255 * STRENGTH * Math.min(2 * value, 1);
    });
    const layer = new OffscreenCanvas(width, height);
    layer.getContext("2d").putImageData(pixels, 0, 0);
    canvas.getContext("2d").drawImage(layer, 0, 0);
  };

  /** The image in box with the map over it, on a canvas that is as large as it is asked for. */
  const crop = (canvas, image, map, box, size) => {
    const [left, top, right, bottom] = box;
    const context = canvas.getContext("2d");
    context.clearRect(0, 0, canvas.width, canvas.height);
    context.imageSmoothingQuality = "high";
    context.drawImage(image, left, top, right - left, bottom - top, 0, 0, canvas.width, canvas.height);
    if (map) paint(canvas, map, box, size);
  };

  // A square that holds box and some of its surroundings: a stem sees a few pixels, which say nothing alone.
  const surroundings = ([left, top, right, bottom], size) => {
    const edge = Math.min(Math.max(right - left, bottom - top, Math.max(...size) / 8), ...size);
    const from = (low, high, length) => Math.min(Math.max((low + high - edge) / 2, 0), length - edge);
    const [x, y] = [from(left, right, size[0]), from(top, bottom, size[1])];
    return [x, y, x + edge, y + edge];
  };

  /** What a unit sees, on a square canvas; its box is drawn where more than that is in view. */
  const unit = (canvas, image, map, box, size) => {
    const [x, y, right, bottom] = surroundings(box, size);
    crop(canvas, image, map, [x, y, right, bottom], size);
    const scale = canvas.width / (right - x);
    const [left, top, width, height] = [box[0] - x, box[1] - y, box[2] - box[0], box[3] - box[1]].map((v) => v * scale);
    if (width < 0.8 * canvas.width && height < 0.8 * canvas.height) {
      const context = canvas.getContext("2d");
      for (const [colour, line] of [["#000a", 5], ["#fff", 2.5]]) {
        Object.assign(context, { strokeStyle: colour, lineWidth: line });
        context.strokeRect(left, top, width, height);
      }
    }
    return canvas;
  };

  const begin = (hexadecimal) => {
    colours = hexadecimal.match(/.{6}/g).map((code) => [0, 2, 4].map((at) => parseInt(code.slice(at, at + 2), 16)));
  };

  const ramp = () => `linear-gradient(90deg, ${colours.filter((_, at) => at % 15 === 0).map((c) => `rgb(${c})`).join(",")})`;

  return { begin, decode, together, paint, unit, ramp };
})();
