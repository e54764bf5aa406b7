"use strict";
// What is said about an image in words and numbers.
const report = (() => {
  const SHOWN = 5; // classes
  const NAMES = {
    sise: "SISE",
    "ada-sise": "Ada-SISE",
    remise: "REMISE",
    rise: "RISE",
    "score-cam": "Score-CAM",
    "grad-cam": "Grad-CAM",
    "grad-cam++": "Grad-CAM++",
    "layer-cam": "LayerCAM",
  };
  const named = (method) => NAMES[method] ?? method;
  const label = (model, target) => model.labels?.[target] ?? String(target);

  /** The likeliest classes, and the one explained where it is none of them. A click chooses the class. */
  const predictions = (model, { probabilities }, explained, choose) => {
    const order = probabilities.map((_, target) => target).sort((one, other) => probabilities[other] - probabilities[one]);
    const shown = order.slice(0, SHOWN);
    if (Number.isInteger(explained) && !shown.includes(explained)) shown.push(explained);
    by("taken-for").hidden = false;
    by("bars").replaceChildren(
      ...shown.map((target) => {
        const item = make("li");
        const button = make("button", "", "bar");
        button.type = "button";
        button.title = "Explain this class";
        if (target === explained) button.setAttribute("aria-current", "true");
        const bar = make("i");
        bar.style.setProperty("--share", `${100 * Math.min(Math.max(probabilities[target], 0), 1)}%`);
        button.append(make("span", label(model, target)), make("span", percent(probabilities[target]), "numbers"), bar);
        button.addEventListener("click", () => choose(target));
        item.append(button);
        return item;
      }),
    );
    const rest = probabilities.length - shown.length;
    by("others").textContent = rest > 0 ? `and ${rest} less likely class${rest > 1 ? "es" : ""}` : "";
  };

  const settings = (parameters) =>
    Object.entries(parameters)
      .map(([name, value]) => `${name} ${value}`)
      .join(", ");

  const explanation = (found) => {
    const complete = found.completeness >= 1 ? "100 %" : `${percent(found.completeness)}, ended by the budget`;
    const facts = [
      ["Method", named(found.method)],
      ["With", settings(found.parameters)],
      ["Passes", String(found.passes)],
      ["Complete", complete],
      ["Time", seconds(found.timings.total)],
      ["Queued", seconds(found.queued)],
      ["Engine", `${found.engine}, ${found.precision}`],
      ["Image", `${found.image.width} × ${found.image.height} pixels`],
      ["Bundle", found.bundle_hash.slice(0, 12)],
    ].filter(([, value]) => value);
    by("facts").replaceChildren(...facts.flatMap(([name, value]) => [make("dt", name), make("dd", value)]));
    regions(found.regions);
  };

  const regions = (all) => {
    by("regions").replaceChildren(
      ...all.slice(0, stage.BOXES).map((region, at) => {
        const row = make("tr");
        const [left, top, right, bottom] = region.box;
        const head = make("th", String(at + 1));
        head.scope = "row";
        row.append(head, ...[`${left}, ${top} – ${right}, ${bottom}`, region.area.toFixed(0), region.mean.toFixed(2), percent(region.mass)].map((text) => make("td", text)));
        row.addEventListener("pointerenter", () => stage.point(at));
        row.addEventListener("pointerleave", () => stage.point(-1));
        return row;
      }),
    );
    const left = all.length - stage.BOXES;
    by("more").textContent = all.length ? (left > 0 ? `and ${left} smaller ones; all are in the JSON` : "") : "Nothing stands out.";
  };

  return { named, label, predictions, explanation };
})();
