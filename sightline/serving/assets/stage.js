"use strict";
// The image, the map over it, the boxes of its regions, and the maps of the blocks to choose from.
const stage = (() => {
  const LONGEST = 1024; // pixels of the canvas, at most
  const SHORTEST = 448; // of its longer side, at least: small images are enlarged smoothly
  const BOXES = 10; // regions that are drawn and listed
  const FUSED = "All blocks";
  let maps = new Map();
  let size = [1, 1];

  const decode = ({ height, width, data }) => {
    const raw = Uint8Array.from(atob(data), (character) => character.charCodeAt(0));
    return { height, width, values: new Float32Array(raw.buffer) };
  };

  const paint = (canvas, map, longest) => {
    const scale = longest / Math.max(...size);
    [canvas.width, canvas.height] = size.map((side) => Math.max(1, Math.round(side * scale)));
    if (map) heat.paint(canvas, map, [0, 0, ...size], size);
  };

  const choose = (name) => paint(by("heat"), maps.get(name), Math.min(LONGEST, Math.max(SHORTEST, ...size)));

  /** An image alone, before it is explained. */
  const image = async ({ address, name }) => {
    maps = new Map();
    const picture = by("picture");
    Object.assign(picture, { src: address, alt: name, hidden: false });
    by("unseen").hidden = by("tools").hidden = by("layers").hidden = true;
    by("boxes").replaceChildren();
    by("frame").style.setProperty("--ratio", size[0] / size[1]);
    try {
      await picture.decode();
    } catch {
      if (picture.src !== address) return; // another one was chosen meanwhile
      picture.hidden = true;
      by("unseen").hidden = false;
    }
    if (picture.src !== address) return;
    size = picture.hidden ? [1, 1] : [picture.naturalWidth, picture.naturalHeight];
    by("frame").style.setProperty("--ratio", size[0] / size[1]);
    choose(null);
  };

  /** What the server found out about the image that is shown. */
  const explain = (explanation) => {
    size = [explanation.image.width, explanation.image.height];
    by("frame").style.setProperty("--ratio", size[0] / size[1]);
    by("unseen").hidden = true;
    maps = new Map([[FUSED, decode(explanation.saliency)]]);
    for (const layer of explanation.layers) maps.set(layer, decode(explanation.layer_maps[layer]));
    by("layers").replaceChildren(by("layers").querySelector("legend"), ...[...maps].map(([name, map], at) => option(name, map, at)));
    by("tools").hidden = false;
    by("layers").hidden = maps.size < 2;
    by("boxes").replaceChildren(...explanation.regions.slice(0, BOXES).map(box));
    choose(FUSED);
  };

  const option = (name, map, at) => {
    const label = make("label", "", "layer");
    const radio = Object.assign(make("input", "", "visually-hidden"), { type: "radio", name: "layer", checked: !at });
    radio.addEventListener("change", () => choose(name));
    const small = make("canvas");
    const context = small.getContext("2d");
    [small.width, small.height] = size.map((side) => Math.max(1, Math.round((side * 144) / Math.max(...size))));
    if (by("picture").naturalWidth) context.drawImage(by("picture"), 0, 0, small.width, small.height);
    heat.paint(small, map, [0, 0, ...size], size);
    label.append(radio, small, make("span", name));
    return label;
  };

  const box = ({ box: [left, top, right, bottom] }, at) => {
    const made = make("div", "", "box numbers");
    const share = (part, whole) => `${(100 * part) / whole}%`;
    Object.assign(made.style, {
      left: share(left, size[0]),
      top: share(top, size[1]),
      width: share(right - left, size[0]),
      height: share(bottom - top, size[1]),
    });
    made.append(make("span", at + 1));
    return made;
  };

  const begin = () => {
    by("ramp").style.background = heat.ramp();
    by("opacity").addEventListener("input", ({ target }) => {
      by("heat").style.opacity = target.value / 100;
      by("opaque").textContent = `${target.value} %`;
    });
    by("boxed").addEventListener("change", ({ target }) => (by("boxes").hidden = !target.checked));
  };

  /** Point at one region, or at none. */
  const point = (at) => [...by("boxes").children].forEach((made, index) => made.classList.toggle("pointed", index === at));

  return { BOXES, begin, image, explain, point };
})();
