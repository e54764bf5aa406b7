"use strict";
// The units and which of them are shown: a graph by layers, where a unit may support several others.
const graph = ((document_) => {
  const units = new Map();
  for (const unit of document_.nodes) units.set(unit.id, { ...unit, parents: [], children: [], folded: true });
  for (const edge of document_.edges) {
    const link = { ...edge, from: units.get(edge.parent), to: units.get(edge.child) };
    link.from.children.push(link);
    link.to.parents.push(link);
  }
  const root = [...units.values()].find((unit) => unit.level === 0);
  for (const unit of units.values()) {
    unit.children.sort((one, other) => other.share - one.share);
    // The parent through which most of the decision reaches the unit: under it the unit stands in the tree.
    unit.parents.sort((one, other) => weight(other) - weight(one));
  }

  function weight(link) {
    return link.from.path_weight * link.share;
  }

  /** The links from the decision to a unit, each the strongest one. */
  const path = (unit) => (unit.parents.length ? [...path(unit.parents[0].from), unit.parents[0]] : []);

  /** Unfold the strongest child of the strongest child of … and nothing else. */
  const foldToStrongest = () => {
    for (const unit of units.values()) unit.folded = true;
    for (let unit = root; unit; unit = unit.children[0]?.to) unit.folded = false;
  };

  /** Unfold every unit, or those that lead to one. */
  const unfold = (to) => {
    if (to) for (const link of path(to)) link.from.folded = false;
    else for (const unit of units.values()) unit.folded = false;
  };

  /**
   * What is shown at a least share: the units that the decision reaches through unfolded units, by links of that share;
   * each with `under`, the link to the parent it stands under, and the links among them.
   */
  const shown = (least) => {
    const reached = new Map([[root, null]]);
    const links = [];
    for (let level = [root]; level.length; ) {
      const below = new Map();
      for (const unit of level) {
        if (unit.folded) continue;
        for (const link of unit.children) {
          if (link.share < least) continue;
          links.push(link);
          const before = below.get(link.to);
          if (!before || weight(link) > weight(before)) below.set(link.to, link);
        }
      }
      for (const [unit, link] of below) reached.set(unit, link);
      level = [...below.keys()];
    }
    return { reached, links };
  };

  /** How many units the slider leaves, folded or not. */
  const left = (least) => {
    const found = new Set([root]);
    for (const unit of found) for (const link of unit.children) if (link.share >= least) found.add(link.to);
    return found.size;
  };

  return { units, root, path, foldToStrongest, unfold, shown, left };
})(JSON.parse(document.getElementById("data").textContent));
