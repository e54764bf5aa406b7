"use strict";
// Crops are drawn from the whole images, each of which the page holds once; those out of sight wait.
(async () => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const by = (id) => document.getElementById(id);
  const where = by("where");
  heat.begin(data.colours);
  const pictures = data.images.map(({ jpeg }) => Object.assign(new Image(), { src: jpeg }));
  await Promise.all(pictures.map((picture) => picture.decode()));

  // Where the units see most of the image anyway, a crop alone does not say what they look at.
  const boxes = data.cards.flatMap((card) => card.excitations.map(({ box: [left, top, right, bottom] }) => (right - left) * (bottom - top)));
  boxes.sort((one, other) => one - other);
  where.checked = boxes.length > 0 && boxes[boxes.length >> 1] > 0.5 * data.size[0] * data.size[1];

  const draw = (canvas) => {
    const found = canvas.excitation;
    found.decoded ??= heat.decode(found.map);
    heat.unit(canvas, pictures[found.image], where.checked ? found.decoded : null, found.box, data.size);
    canvas.drawn = true;
  };
  const seen = new IntersectionObserver(
    (entries) => entries.forEach(({ isIntersecting, target }) => isIntersecting && !target.drawn && draw(target)),
    { rootMargin: "300px" },
  );
  const canvases = [];
  document.querySelectorAll(".card").forEach((article, at) => {
    const card = data.cards[at];
    card.excitations.forEach((found, rank) => {
      const canvas = Object.assign(document.createElement("canvas"), { width: 192, height: 192, excitation: found });
      const button = Object.assign(document.createElement("button"), { type: "button", className: "crop" });
      const name = data.images[found.image].name;
      button.title = `${name}, ${found.label}`;
      button.ariaLabel = `${rank + 1}: ${name}, ${found.label}, activation ${number(found.value)}`;
      button.append(canvas);
      button.addEventListener("click", () => open(card, found));
      article.querySelector(".crops").append(button);
      canvases.push(canvas);
      seen.observe(canvas);
    });
  });
  where.addEventListener("change", () => canvases.forEach((canvas) => canvas.drawn && draw(canvas)));
  addEventListener("beforeprint", () => canvases.forEach((canvas) => canvas.drawn || draw(canvas)));

  function number(value) {
    return String(+value.toPrecision(3));
  }

  const open = (card, found) => {
    const [width, height] = data.size;
    const { name } = data.images[found.image];
    by("which").textContent = `${card.layer} · ${card.channel}`;
    Object.assign(by("picture"), { src: data.images[found.image].jpeg, alt: name });
    const layer = by("heat");
    const factor = Math.max(1, Math.round(448 / width));
    [layer.width, layer.height] = [width * factor, height * factor];
    found.decoded ??= heat.decode(found.map);
    heat.paint(layer, found.decoded, [0, 0, width, height], data.size);
    const [left, top, right, bottom] = found.box;
    by("box").hidden = right - left >= width && bottom - top >= height;
    const share = (part, whole) => `${(100 * part) / whole}%`;
    Object.assign(by("box").style, {
      left: share(left, width),
      top: share(top, height),
      width: share(right - left, width),
      height: share(bottom - top, height),
    });
    const facts = [
      ["Image", name],
      ["Taken for", `${found.label}, ${found.score.toFixed(3)}`],
      ["Activation", number(found.value)],
      ["At", `row ${found.position[0]}, column ${found.position[1]}`],
      ["Sees", `${right - left} × ${bottom - top} pixels`],
    ];
    by("facts").replaceChildren(
      ...facts.flatMap((pair) => pair.map((text, at) => Object.assign(document.createElement(at ? "dd" : "dt"), { textContent: text }))),
    );
    by("whole").showModal();
  };
  // A click beside the dialog closes it.
  by("whole").addEventListener("click", (event) => event.target === by("whole") && by("whole").close());
  document.documentElement.dataset.ready = "";
})();
