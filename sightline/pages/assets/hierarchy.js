"use strict";
// The page: what is pointed at, what is fixed, and what is said about it.
const percent = (share) => {
  const value = 100 * share;
  if (value === 0) return "0 %";
  if (value < 0.1) return "< 0.1 %";
  return `${value < 9.95 ? value.toFixed(1) : value.toFixed(0)} %`;
};
const number = (value) => (Math.abs(value) >= 1000 || (value && Math.abs(value) < 0.001) ? value.toExponential(2) : String(+value.toPrecision(3)));

(async () => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const { root } = graph;
  const by = (id) => document.getElementById(id);
  const size = [data.image.width, data.image.height];
  const image = by("image");
  let fixed = null; // by a click or Enter
  let pointed = null; // by the pointer or the focus
  let focused = root; // where the arrow keys start from
  let least = 0; // share that is shown

  heat.begin(data.colours);
  image.src = data.image.png;
  await image.decode();
  by("frame").style.setProperty("--ratio", `${size[0]} / ${size[1]}`);
  by("ramp").style.background = heat.ramp();

  const element = (tag, text = "", kind = "") => {
    const made = document.createElement(tag);
    if (text) made.textContent = text;
    if (kind) made.className = kind;
    return made;
  };
  const canvas = (side) => Object.assign(element("canvas"), { width: side, height: side });
  const named = (unit) => (unit === root ? data.label : `${unit.layer} · ${unit.channel}`);
  const support = (unit) => {
    // The decision has no map of its own: it shows what its children show together.
    if (unit.map === undefined) {
      unit.map = unit.heatmap
        ? heat.decode(unit.heatmap)
        : heat.together(unit.children.map((link) => support(link.to)).filter(Boolean));
    }
    return unit.map;
  };
  const cropped = (unit, side, map) => heat.unit(canvas(2 * side), image, map, unit.box, size);
  const thumbnail = (unit, side) => cropped(unit, side, support(unit));

  // The image.
  const look = (unit) => {
    const layer = by("heat");
    const factor = Math.max(1, Math.round(448 / size[0]));
    [layer.width, layer.height] = size.map((side) => side * factor);
    const map = support(unit);
    if (map) heat.paint(layer, map, [0, 0, ...size], size);
    const [left, top, right, bottom] = unit.box;
    const box = by("box");
    box.hidden = right - left >= size[0] && bottom - top >= size[1];
    Object.assign(box.style, {
      left: `${(100 * left) / size[0]}%`,
      top: `${(100 * top) / size[1]}%`,
      width: `${(100 * (right - left)) / size[0]}%`,
      height: `${(100 * (bottom - top)) / size[1]}%`,
    });
    by("caption").replaceChildren(element("b", named(unit)), document.createTextNode(unit === root ? " the units below it together" : ` at ${unit.position.join(", ")}`));
    by("most").textContent = map ? number(map.max) : "";
  };

  // What is said about the unit that is fixed.
  const inspect = (unit) => {
    const about = by("inspector");
    const head = element("div", "", "about");
    const [left, top, right, bottom] = unit.box;
    const crop = cropped(unit, 96, null);
    crop.setAttribute("role", "img");
    crop.setAttribute("aria-label", "What the unit sees of the image");
    const names = element("div");
    names.append(element("h2", named(unit)));
    const level = data.levels[unit.level];
    names.append(
      element("p", unit === root ? "The decision" : `Channel ${unit.channel} of ${level.channels}, at row ${unit.position[0]}, column ${unit.position[1]} of ${level.height} × ${level.width}`, "page-note"),
    );
    const card = data.cards?.[`${unit.layer}:${unit.channel}`];
    if (card) names.append(Object.assign(element("a", "What this channel looks for"), { href: card }));
    head.append(...(unit === root ? [] : [crop]), names);

    const facts = element("dl", "", "facts");
    const fact = (name, value) => facts.append(element("dt", name), element("dd", value));
    fact(unit === root ? "Value" : "Activation", number(unit.value));
    if (unit !== root) fact("Share of the decision", percent(unit.path_weight));
    if (unit.kept !== null) fact("Kept in its children", percent(unit.kept));
    fact("Sees", `${right - left} × ${bottom - top} pixels`);

    const parts = [head, facts];
    if (unit !== root) parts.push(element("h3", "From the decision"), route(unit));
    if (unit.parents.length > 1) {
      parts.push(element("h3", "It supports"), list(unit.parents.map((link) => [link.from, link.share])));
    }
    if (unit.children.length) {
      parts.push(element("h3", "Supported by"), list(unit.children.map((link) => [link.to, link.share])));
    }
    about.replaceChildren(...parts);
  };
  const entry = (unit, share) => {
    const button = element("button", "", "entry");
    button.type = "button";
    unit.small ??= thumbnail(unit, 24);
    const copy = canvas(48);
    copy.getContext("2d").drawImage(unit.small, 0, 0);
    button.append(copy, element("span", named(unit)), element("span", share === null ? "" : percent(share), "numbers"));
    button.addEventListener("click", () => {
      graph.unfold(unit);
      if (!graph.shown(least).reached.has(unit)) setLeast(0);
      fix(unit);
      render();
      focus(unit);
    });
    button.addEventListener("pointerenter", () => point(unit));
    button.addEventListener("pointerleave", () => point(null));
    return button;
  };
  const listed = (tag, rows) => {
    const made = element(tag, "", "entries");
    for (const [unit, share] of rows) {
      const item = element("li");
      item.append(entry(unit, share));
      made.append(item);
    }
    return made;
  };
  const list = (rows) => listed("ul", rows);
  const route = (unit) => listed("ol", [[root, null], ...graph.path(unit).map((link) => [link.to, link.share])]);

  // State.
  const current = () => pointed ?? fixed ?? root;
  const refresh = () => {
    look(current());
    tree.mark(current(), fixed);
  };
  const point = (unit) => {
    if (pointed === unit) return;
    pointed = unit;
    refresh();
  };
  const fix = (unit) => {
    fixed = unit;
    inspect(unit ?? root);
    refresh();
  };
  const toggle = (unit, folded = !unit.folded) => {
    if (!unit.children.length || unit.folded === folded) return;
    unit.folded = folded;
    render({ from: unit });
  };
  const focus = (unit) => {
    const before = tree.element(focused);
    if (before) before.tabIndex = -1;
    focused = unit;
    const now = tree.element(unit);
    now.tabIndex = 0;
    now.focus({ preventScroll: true });
    tree.reveal(unit);
  };
  const setLeast = (share) => {
    least = share;
    by("share").value = Math.round(100 * share);
    by("least").textContent = `${Math.round(100 * share)} %`;
    by("share").ariaValueText = by("least").textContent;
  };

  const draw = function (unit) {
    this.className = "unit";
    this.setAttribute("role", "treeitem");
    this.setAttribute("aria-level", unit.level + 1);
    this.tabIndex = -1;
    this.dataset.id = unit.id;
    const frame = element("div", "", "thumb");
    frame.append((unit.thumb ??= thumbnail(unit, 64)));
    const caption = element("div", "", "caption");
    caption.append(element("b", unit === root ? data.label : `#${unit.channel}`), element("span", "", "share numbers"));
    this.append(frame, caption);
    if (unit.children.length) frame.append(element("span", "", "fold numbers"));
    this.addEventListener("pointerenter", (event) => event.pointerType !== "touch" && point(unit));
    this.addEventListener("pointerleave", () => point(null));
    this.addEventListener("focus", () => this.matches(":focus-visible") && point(unit));
    this.addEventListener("blur", () => point(null));
    this.addEventListener("click", (event) => {
      event.stopPropagation();
      if (event.target.className.includes("fold")) return toggle(unit);
      fix(unit);
      toggle(unit, false);
      focus(unit);
    });
  };
  const act = function (unit) {
    const share = unit.parents.find((link) => link.from === unit.standsUnder)?.share;
    this.querySelector(".share").textContent = share === undefined ? "" : percent(share);
    const under = unit.standsUnder ? `, ${percent(share)} of ${named(unit.standsUnder)}` : "";
    this.setAttribute("aria-label", `${named(unit)}${under}`);
    this.setAttribute("aria-setsize", unit.siblings.length);
    this.setAttribute("aria-posinset", unit.siblings.indexOf(unit) + 1);
    if (!unit.children.length) return;
    const more = unit.children.filter((link) => link.share >= least).length;
    this.setAttribute("aria-expanded", String(!unit.folded));
    this.classList.toggle("is-folded", unit.folded && more > 0);
    this.querySelector(".fold").textContent = unit.folded ? `+${more}` : "−";
    this.querySelector(".fold").hidden = !more;
  };

  const render = (how = {}) => {
    const shown = graph.shown(least);
    const inside = by("units").contains(document.activeElement);
    tree.show(shown, how);
    if (!shown.reached.has(focused)) {
      // It was folded away, or its share is below the slider's: the nearest of its path that is still there.
      focused = graph.path(focused).map((link) => link.from).reverse().find((unit) => shown.reached.has(unit)) ?? root;
    }
    if (pointed && !shown.reached.has(pointed)) pointed = null;
    tree.element(focused).tabIndex = 0;
    if (inside && document.activeElement !== tree.element(focused)) focus(focused); // moved or gone, it lost the focus
    const left = graph.left(least);
    const [seen, all] = [shown.reached.size, graph.units.size];
    by("count").textContent = left < all ? `${seen} shown of ${left}, ${all - left} below` : `${seen} of ${all} units shown`;
    refresh();
  };

  const keys = {
    ArrowLeft: () => focused.standsUnder,
    ArrowRight: () => {
      if (!focused.children.length) return null;
      if (focused.folded) return toggle(focused);
      return focused.children.map((link) => link.to).find((unit) => tree.shows(unit) && unit.standsUnder === focused);
    },
    ArrowUp: () => tree.beside(focused, -1),
    ArrowDown: () => tree.beside(focused, 1),
    Home: () => root,
    Enter: () => void fix(focused),
    " ": () => void toggle(focused),
  };
  by("units").addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.altKey || event.metaKey || !(event.key in keys)) return;
    event.preventDefault();
    const next = keys[event.key]();
    if (next) {
      focus(next);
      point(next);
    }
  });
  document.addEventListener("keydown", (event) => {
    if (event.key !== "Escape") return;
    pointed = null;
    fix(null);
  });
  by("viewport").addEventListener("click", () => fix(null));
  by("share").addEventListener("input", (event) => {
    setLeast(event.target.value / 100);
    render({ from: root });
  });
  by("unfold").addEventListener("click", () => {
    graph.unfold();
    render({ calm: true });
    tree.fit(200);
  });
  by("fold").addEventListener("click", () => {
    graph.foldToStrongest();
    render({ calm: true });
    tree.fit(200);
  });
  by("larger").addEventListener("click", () => tree.larger(1.4));
  by("smaller").addEventListener("click", () => tree.larger(1 / 1.4));
  by("fit").addEventListener("click", () => tree.fit(200));
  let width = innerWidth;
  addEventListener("resize", () => {
    if (innerWidth === width) return; // a phone's address bar that comes and goes
    width = innerWidth;
    render({ calm: true });
    tree.fit();
  });

  const reaching = (at) => [...graph.units.values()].reduce((sum, unit) => sum + (unit.level === at ? unit.path_weight : 0), 0);
  tree.begin(data.levels.map((level, at) => ({ ...level, mass: Math.min(reaching(at), 1) })), { draw, act });
  graph.foldToStrongest();
  setLeast(0);
  render({ calm: true });
  tree.fit();
  fix(null);
  document.documentElement.dataset.ready = "";
})();
