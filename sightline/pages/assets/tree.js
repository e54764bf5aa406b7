"use strict";
// The drawing: a tidy tree from left to right, a column per layer, bands as thick as shares; pan and zoom.
const tree = (() => {
  const SIDE = 64; // of a thumbnail
  const ROW = 98; // from one thumbnail to the next, its caption between them
  const HEAD = 56; // kept free for the names of the columns
  const QUIET = matchMedia("(prefers-reduced-motion: reduce)");
  const viewport = document.getElementById("viewport");
  const stage = d3.select("#stage");
  const bands = d3.select("#bands");
  const units = d3.select("#units");
  const columns = d3.select("#columns");
  const places = new Map(); // unit -> [x, y] of the middle of its thumbnail, now
  let goals = new Map(); // and where it is going
  let links = [];
  let step = 180; // from one column to the next
  let draw, act;

  const zooming = d3
    .zoom()
    .scaleExtent([0.08, 2.5])
    // The wheel pans, as a page scrolls; with Ctrl (a pinch on a touch pad) it zooms.
    .filter((event) => (event.type === "wheel" ? event.ctrlKey : !event.button))
    .clickDistance(4)
    .on("zoom", ({ transform }) => {
      stage.style("transform", `translate(${transform.x}px, ${transform.y}px) scale(${transform.k})`);
      // Captions stay readable as long as there is room for them.
      stage.style("--caption", `${11 * Math.min(Math.max(1 / transform.k, 1), 1.4)}px`).classed("far", transform.k < 0.5);
      columns.selectAll(".column").style("transform", (_, level) => `translateX(${transform.applyX(level * step)}px) translateX(-50%)`);
      columns.style("--room", `${Math.max(0, transform.k * step - 12)}px`).classed("narrow", transform.k * step < 84);
    });
  const view = d3.select(viewport).call(zooming).on("dblclick.zoom", null);
  viewport.addEventListener(
    "wheel",
    (event) => {
      if (event.ctrlKey) return;
      event.preventDefault();
      const unit = event.deltaMode === 1 ? 18 : 1;
      const [x, y] = event.shiftKey && !event.deltaX ? [event.deltaY, 0] : [event.deltaX, event.deltaY];
      const { k } = d3.zoomTransform(viewport);
      view.call(zooming.translateBy, (-x * unit) / k, (-y * unit) / k);
    },
    { passive: false },
  );

  const begin = (levels, callbacks) => {
    ({ draw, act } = callbacks);
    columns
      .selectAll(".column")
      .data(levels)
      .join("div")
      .attr("class", "column")
      .each(function (level, at) {
        const name = document.createElement("b");
        name.textContent = level.name;
        const shape = document.createElement("span");
        shape.textContent = at ? `${level.channels} × ${level.height}²` : "";
        if (at && level.height !== level.width) shape.textContent = `${level.channels} × ${level.height} × ${level.width}`;
        const mass = document.createElement("span");
        mass.textContent = at ? `carries ${percent(level.mass)}` : "";
        this.append(name, shape, mass);
      });
  };

  /** Lay out what is shown, and go there; `from` is the unit that stays where it is on the screen. */
  const show = ({ reached, links: shownLinks }, { from = null, calm = false } = {}) => {
    const nest = new Map([...reached.keys()].map((unit) => [unit, []]));
    for (const [unit, under] of reached) if (under) nest.get(under.from).push(under);
    for (const [unit, below] of nest) nest.set(unit, strongestInTheMiddle(below));
    const laid = d3
      .tree()
      .nodeSize([ROW, 1])
      .separation((one, other) => (one.parent === other.parent ? 1 : 1.15))(
      d3.hierarchy(graph.root, (unit) => nest.get(unit).map((link) => link.to)),
    );
    const gaps = Math.max(columns.selectAll(".column").size() - 1, 1);
    const rows = laid.descendants().map((node) => node.x);
    // As wide as there is room; wider where the tree is so tall that its bands would run straight up and down.
    step = Math.min(Math.max((viewport.clientWidth - 130) / gaps, 116), 230);
    step = Math.max(step, Math.min((Math.max(...rows) - Math.min(...rows)) / 11, 520));
    const starts = new Map();
    goals = new Map();
    laid.eachBefore((node) => {
      const unit = node.data;
      goals.set(unit, [unit.level * step, node.x]);
      starts.set(unit, places.get(unit) ?? starts.get(node.parent?.data) ?? goals.get(unit));
      unit.siblings = node.parent ? node.parent.children.map((child) => child.data) : [unit];
      unit.standsUnder = node.parent?.data ?? null;
    });
    places.clear();
    links = shownLinks;
    for (const [ends, side] of [["from", "out"], ["to", "in"]]) stack(links, ends, side);

    units
      .selectAll(".unit")
      .data([...goals.keys()], (unit) => unit.id)
      .join((entering) => entering.append("div").each(draw))
      .each(act)
      .order();
    bands
      .selectAll("path")
      // Below, the links to units that stand under another one.
      .data([...links].sort((one, other) => (reached.get(one.to) === one) - (reached.get(other.to) === other)), (link) => `${link.parent} ${link.child}`)
      .join("path")
      .attr("stroke-width", (link) => Math.max(link.share * SIDE, 1))
      .classed("also", (link) => reached.get(link.to) !== link)
      .order();

    const shift = from && starts.has(from) ? goals.get(from)[1] - starts.get(from)[1] : 0;
    if (shift) {
      // What the reader has clicked stays under the pointer; all else moves around it.
      view.call(zooming.translateBy, 0, -shift);
      for (const [unit, [x, y]] of starts) starts.set(unit, [x, y + shift]);
    }
    const arrive = (share) => {
      for (const [unit, [x, y]] of goals) {
        const [startX, startY] = starts.get(unit);
        places.set(unit, [startX + (x - startX) * share, startY + (y - startY) * share]);
      }
      place();
    };
    stage.interrupt("layout");
    if (calm || QUIET.matches || goals.size > 150) return arrive(1);
    arrive(0);
    stage.transition("layout").duration(260).tween("layout", () => arrive);
  };

  // So that the strongest path runs straight, and weaker ones leave it to both sides.
  const strongestInTheMiddle = (below) => {
    const order = [];
    below.sort((one, other) => other.share - one.share).forEach((link, at) => (at % 2 ? order.push(link) : order.unshift(link)));
    return order;
  };

  // Bands leave and arrive side by side, in the order of where they lead, so that they do not cross at a thumbnail.
  const stack = (among, end, side) => {
    const other = end === "from" ? "to" : "from";
    const groups = new Map();
    for (const link of among) groups.set(link[end], [...(groups.get(link[end]) ?? []), link]);
    for (const group of groups.values()) {
      group.sort((one, two) => goals.get(one[other])[1] - goals.get(two[other])[1]);
      const full = group.reduce((sum, link) => sum + link.share, 0);
      const scale = SIDE * Math.min(1, 1 / full);
      let at = (-full * scale) / 2;
      for (const link of group) {
        link[side] = at + (link.share * scale) / 2;
        at += link.share * scale;
      }
    }
  };

  const place = () => {
    units.selectAll(".unit").style("transform", (unit) => {
      const [x, y] = places.get(unit);
      return `translate(${x - SIDE / 2}px, ${y - SIDE / 2}px)`;
    });
    bands.selectAll("path").attr("d", (link) => {
      const [x0, y0] = places.get(link.from);
      const [x1, y1] = places.get(link.to);
      const [left, right] = [x0 + SIDE / 2, x1 - SIDE / 2];
      const middle = (left + right) / 2;
      return `M${left},${y0 + link.out}C${middle},${y0 + link.out} ${middle},${y1 + link.in} ${right},${y1 + link.in}`;
    });
  };

  /** Mark the units and bands of a path, and the unit that is fixed. */
  const mark = (unit, fixed) => {
    const path = new Set(graph.path(unit));
    const on = new Set([...path].flatMap((link) => [link.from, link.to]).concat(unit));
    units
      .selectAll(".unit")
      .classed("on-path", (other) => on.has(other))
      .classed("is-shown", (other) => other === unit)
      .classed("is-fixed", (other) => other === fixed)
      .attr("aria-selected", (other) => String(other === fixed));
    bands.selectAll("path").classed("on-path", (link) => path.has(link)).filter(".on-path").raise();
  };

  const moved = (duration) => (duration && !QUIET.matches ? view.transition().duration(duration) : view);

  /** Everything in view; where that would be too small to see, the decision and its surroundings. */
  const fit = (duration = 0) => {
    const all = [...goals.values()];
    const [top, bottom] = [Math.min(...all.map(([, y]) => y)), Math.max(...all.map(([, y]) => y))];
    const width = (columns.selectAll(".column").size() - 1) * step + SIDE + 46;
    const height = bottom - top + SIDE + 48;
    const room = [viewport.clientWidth, viewport.clientHeight - HEAD];
    const whole = Math.min(room[0] / width, room[1] / height, 1.35);
    const k = Math.max(whole, Math.min(0.42, room[0] / width), room[0] < 500 && height < 3000 ? 0.8 : 0);
    const middle = k > whole ? goals.get(graph.root)[1] : (top + bottom) / 2 + 8;
    const x = room[0] > k * width ? (room[0] - k * width) / 2 : 0;
    moved(duration).call(
      zooming.transform,
      d3.zoomIdentity.translate(x + k * (SIDE / 2 + 23), HEAD + room[1] / 2 - k * middle).scale(k),
    );
  };

  const larger = (factor) => moved(180).call(zooming.scaleBy, factor);

  /** Bring a unit into view, if it is not. */
  const reveal = (unit) => {
    const { x, y, k } = d3.zoomTransform(viewport);
    const [atX, atY] = goals.get(unit);
    const margin = (SIDE / 2 + 24) * k;
    const [screenX, screenY] = [x + k * atX, y + k * atY];
    const beyond = (value, low, high) => (value < low ? low - value : value > high ? high - value : 0);
    const shiftX = beyond(screenX, margin, viewport.clientWidth - margin);
    const shiftY = beyond(screenY, HEAD + margin, viewport.clientHeight - margin);
    if (shiftX || shiftY) moved(180).call(zooming.translateBy, shiftX / k, shiftY / k);
  };

  /** The next unit in the same column, up (-1) or down (1). */
  const beside = (unit, direction) => {
    const column = [...goals.keys()].filter((other) => other.level === unit.level).sort((one, other) => goals.get(one)[1] - goals.get(other)[1]);
    return column[column.indexOf(unit) + direction] ?? null;
  };

  return { begin, show, mark, fit, larger, reveal, beside, shows: (unit) => goals.has(unit), element: (unit) => units.selectAll(".unit").filter((other) => other === unit).node() };
})();
