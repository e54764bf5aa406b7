"use strict";
// The image, the map over it, the boxes of its regions, and the maps of the blocks to choose from.
const stage = (() => {
  const LONGEST = 1024; // pixels of the canvas, at most
  const SHORTEST = 448; // of its longer side, at least: small images are enlarged smoothly
  const BOXES = 10; // regions that are drawn and listed
  let maps = []; // [name, map]; the first one is what all blocks show together
  let size = [1, 1];
  let unseen = false; // the browser cannot show the file (TIFF, mostly); the server may have read it

  const decode = ({ height, width, data }) => {
    const raw = Uint8Array.from(atob(data), (character) => character.charCodeAt(0));
    return { height, width, values: new Float32Array(raw.buffer) };
  };

  const paint = (canvas, map, longest) => {
    const scale = longest / Math.max(...size);
    [canvas.width, canvas.height] = size.map((side) => Math.max(1, Math.round(side * scale)));
    if (map) heat.paint(canvas, map, [0, 0, ...size], size);
  };

  const choose = (at) => {
    // What the browser cannot show is seen in the server's overlay, which has the first map in it, or not at all.
    const drawn = unseen && at === 0 && maps.length > 0;
    by("picture").hidden = unseen && !drawn;
    paint(by("heat"), drawn ? null : maps[at]?.[1], Math.min(LONGEST, Math.max(SHORTEST, ...size)));
  };

  const resize = (found) => {
    size = found;
    by("frame").style.setProperty("--ratio", size[0] / size[1]);
  };

  /** An image alone, before it is explained. */
  const image = async ({ address, name }) => {
    maps = [];
    const picture = by("picture");
    Object.assign(picture, { src: address, alt: name, hidden: false });
    by("unseen").hidden = by("tools").hidden = by("layers").hidden = true;
    by("boxes").replaceChildren();
    const shown = await picture.decode().then(
      () => true,
      () => false,
    );
    if (picture.src !== address) return; // another one was chosen meanwhile
    unseen = !shown;
    by("unseen").hidden = shown;
    resize(shown ? [picture.naturalWidth, picture.naturalHeight] : [3, 2]);
    choose(0);
  };

  /** What the server found out about the image that is shown. */
  const explain = (explanation) => {
    resize([explanation.image.width, explanation.image.height]);
    by("unseen").hidden = true;
    if (unseen) by("picture").src = `data:image/png;base64,${explanation.overlay}`;
    by("opacity").disabled = unseen;
    maps = [["All blocks", explanation.saliency], ...explanation.layers.map((layer) => [layer, explanation.layer_maps[layer]])];
    maps = maps.map(([name, map]) => [name, decode(map)]);
    by("layers").replaceChildren(by("layers").querySelector("legend"), ...maps.map(option));
    by("tools").hidden = false;
    by("layers").hidden = maps.length < 2;
    by("boxes").replaceChildren(...explanation.regions.slice(0, BOXES).map(box));
    choose(0);
  };

  const option = ([name, map], at) => {
    const label = make("label", "", "layer");
    const radio = Object.assign(make("input", "", "visually-hidden"), { type: "radio", name: "layer", checked: !at });
    radio.addEventListener("change", () => choose(at));
    const small = make("canvas");
    const context = small.getContext("2d");
    [small.width, small.height] = size.map((side) => Math.max(1, Math.round((side * 144) / Math.max(...size))));
    if (!unseen) context.drawImage(by("picture"), 0, 0, small.width, small.height);
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
