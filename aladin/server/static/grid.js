// Rows of photographs that fill the width. Only those in sight, and a screen around them, are in the document.

import { element, placeBox } from "./dom.js";
import { hide, show } from "./api.js";

const GAP = 8;
const MARGIN = 1.0; // screens kept above and below
const LEAST_ASPECT = 0.55, MOST_ASPECT = 2.8;

export class Grid {
  constructor(list, { onOpen, onNearEnd, tagOf, nameOf }) {
    Object.assign(this, { list, onOpen, onNearEnd, tagOf, nameOf });
    this.items = [];
    this.rows = [];
    this.places = [];
    this.shown = new Map();
    this.active = 0;
    this.width = 0;
    this.lit = null;
    this.scheduled = false;
    const schedule = () => this.schedule();
    addEventListener("scroll", schedule, { passive: true });
    new ResizeObserver(() => this.list.clientWidth !== this.width && this.layout()).observe(list);
    list.addEventListener("keydown", (event) => this.key(event));
    list.addEventListener("focusin", (event) => {
      const item = event.target.closest("li");
      if (item) this.active = Number(item.dataset.index);
    });
  }

  set(items) {
    this.items = items;
    this.active = 0;
    this.release(() => true);
    this.layout();
  }

  append(items) {
    this.items = this.items.concat(items);
    for (const node of this.shown.values()) node.setAttribute("aria-setsize", this.items.length);
    this.layout();
  }

  layout() {
    this.width = this.list.clientWidth;
    const target = this.width < 600 ? 132 : this.width < 1100 ? 190 : 228;
    this.rows = [];
    this.places = new Array(this.items.length);
    let top = 0, first = 0, sum = 0;
    const close = (end, height) => {
      let left = 0;
      for (let index = first; index < end; index++) {
        const width = height * this.aspect(index);
        this.places[index] = { left, top, width, height };
        left += width + GAP;
      }
      this.rows.push({ top, bottom: top + height, first, end });
      top += height + GAP;
      first = end;
      sum = 0;
    };
    for (let index = 0; index < this.items.length; index++) {
      sum += this.aspect(index);
      const height = (this.width - GAP * (index - first)) / sum;
      if (height <= target) close(index + 1, height);
    }
    if (first < this.items.length) close(this.items.length, Math.min(target, (this.width - GAP * (this.items.length - 1 - first)) / sum));
    this.list.style.height = `${Math.max(top - GAP, 0)}px`;
    this.render();
  }

  aspect(index) {
    const { width, height } = this.items[index];
    return Math.min(Math.max((width || 4) / (height || 3), LEAST_ASPECT), MOST_ASPECT);
  }

  schedule() {
    if (this.scheduled) return;
    this.scheduled = true;
    requestAnimationFrame(() => {
      this.scheduled = false;
      this.render();
    });
  }

  render() {
    const above = this.list.getBoundingClientRect().top;
    const from = -above - MARGIN * innerHeight, to = -above + (1 + MARGIN) * innerHeight;
    let low = 0, high = this.rows.length;
    while (low < high) {
      const middle = (low + high) >> 1;
      if (this.rows[middle].bottom < from) low = middle + 1;
      else high = middle;
    }
    const wanted = new Set();
    for (let row = low; row < this.rows.length && this.rows[row].top <= to; row++) {
      for (let index = this.rows[row].first; index < this.rows[row].end; index++) wanted.add(index);
    }
    this.release((index) => !wanted.has(index) && !(index === this.active && this.shown.get(index)?.contains(document.activeElement)));
    for (const index of wanted) this.put(index);
    if (this.rows.length && to >= this.rows[this.rows.length - 1].top) this.onNearEnd();
  }

  put(index) {
    let node = this.shown.get(index);
    if (!node) {
      node = this.build(index);
      this.shown.set(index, node);
      // In the order of the items, so that Tab and screen readers meet them so.
      let following = null;
      for (const [other, candidate] of this.shown) {
        if (other > index && (!following || other < Number(following.dataset.index))) following = candidate;
      }
      this.list.insertBefore(node, following);
    }
    const { left, top, width, height } = this.places[index];
    Object.assign(node.style, { transform: `translate(${left}px, ${top}px)`, width: `${width}px`, height: `${height}px` });
    node.firstChild.tabIndex = index === this.active ? 0 : -1;
  }

  build(index) {
    const item = this.items[index];
    const image = element("img", { alt: "", decoding: "async", draggable: false });
    const tile = element(
      "button",
      { type: "button", className: "tile", "aria-label": this.nameOf(item, index), onclick: () => this.onOpen(index) },
      image,
      element("span", { className: "lamp" }),
      element("span", { className: "tag" }, this.tagOf(item, index)),
    );
    image.addEventListener("load", () => tile.classList.add("loaded"));
    image.addEventListener("error", () => tile.classList.add("broken"));
    show(image, item.thumbnail);
    const node = element("li", { "aria-posinset": index + 1, "aria-setsize": this.items.length }, tile);
    node.dataset.index = index;
    this.lightTile(tile, item);
    return node;
  }

  release(unwanted) {
    for (const [index, node] of this.shown) {
      if (!unwanted(index)) continue;
      hide(node.querySelector("img"));
      node.remove();
      this.shown.delete(index);
    }
  }

  // Lights out, but for what `boxOf` finds in a photograph; without it, lights on.
  light(boxOf) {
    this.lit = boxOf;
    this.list.classList.toggle("lit", Boolean(boxOf));
    if (boxOf) for (const [index, node] of this.shown) this.lightTile(node.firstChild, this.items[index]);
  }

  lightTile(tile, item) {
    const lamp = tile.querySelector(".lamp");
    const box = this.lit?.(item);
    lamp.classList.toggle("on", Boolean(box));
    if (!box) return;
    const spot = lamp.firstChild || lamp.appendChild(element("span", { className: "spot" }));
    placeBox(spot, box, item.width || 1, item.height || 1);
  }

  key(event) {
    const moves = { ArrowRight: () => this.active + 1, ArrowLeft: () => this.active - 1, ArrowDown: () => this.vertical(1),
      ArrowUp: () => this.vertical(-1), Home: () => 0, End: () => this.items.length - 1 };
    if (!(event.key in moves) || event.altKey || event.ctrlKey || event.metaKey) return;
    const next = moves[event.key]();
    if (next < 0 || next >= this.items.length) return;
    event.preventDefault();
    this.focus(next);
  }

  vertical(step) {
    const row = this.rows.findIndex(({ first, end }) => this.active >= first && this.active < end) + step;
    if (row < 0 || row >= this.rows.length) return -1;
    const { left, width } = this.places[this.active];
    let best = this.rows[row].first;
    const off = (index) => Math.abs(this.places[index].left + this.places[index].width / 2 - left - width / 2);
    for (let index = best; index < this.rows[row].end; index++) if (off(index) < off(best)) best = index;
    return best;
  }

  focus(index) {
    const { top, height } = this.places[index];
    const above = this.list.getBoundingClientRect().top, head = 90;
    if (above + top < head) scrollBy({ top: above + top - head, behavior: "instant" });
    else if (above + top + height > innerHeight - 12) scrollBy({ top: above + top + height - innerHeight + 12, behavior: "instant" });
    this.active = index;
    this.render();
    this.shown.get(index)?.firstChild.focus({ preventScroll: true });
  }
}
