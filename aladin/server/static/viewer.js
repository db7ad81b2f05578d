// One photograph, large: why it was found, and boxes drawn on it to search for what they hold.

import { byId, element, icon, placeBox } from "./dom.js";
import { hide, show } from "./api.js";
import { regionShares, wordShares } from "./words.js";

const LEAST = 0.03; // of a side: smaller boxes are clicks

export class Viewer {
  constructor({ onStep, onClose, onSimilar, onRegion, onMore, onWithout, explain }) {
    Object.assign(this, { onStep, onClose, onSimilar, onRegion, onMore, onWithout, explain });
    this.dialog = byId("viewer");
    this.frame = byId("frame");
    this.choice = byId("choice");
    this.box = null;
    this.drag = null;
    this.held = null; // a share whose light stays on
    byId("viewer-close").onclick = () => this.dialog.close();
    byId("previous").onclick = () => this.onStep(-1);
    byId("next").onclick = () => this.onStep(1);
    byId("viewer-similar").onclick = () => this.leave(() => this.onSimilar(this.item));
    byId("viewer-region").onclick = () => (this.box ? this.choose(null) : this.choose({ x: 0.3, y: 0.3, width: 0.4, height: 0.4 }, true));
    byId("confirm-search").onclick = () => this.searchRegion();
    byId("confirm-cancel").onclick = () => this.choose(null);
    this.choice.addEventListener("click", (event) => event.detail === 0 && this.searchRegion()); // by Enter or Space
    this.choice.addEventListener("keydown", (event) => this.moveByKey(event));
    this.dialog.addEventListener("close", () => (hide(byId("large")), this.onClose()));
    this.dialog.addEventListener("cancel", (event) => {
      if (!this.box) return;
      event.preventDefault();
      this.choose(null);
      byId("viewer-region").focus();
    });
    this.dialog.addEventListener("keydown", (event) => this.key(event));
    this.frame.addEventListener("pointerdown", (event) => this.press(event));
    this.frame.addEventListener("pointermove", (event) => this.drag && this.draw(event));
    for (const kind of ["pointerup", "pointercancel"]) this.frame.addEventListener(kind, () => this.drop());
    new ResizeObserver(() => this.fit()).observe(byId("stage"));
  }

  get isOpen() {
    return this.dialog.open;
  }

  async open(item, { place, total, facts, query }) {
    this.item = item;
    this.held = null;
    this.choose(null);
    byId("title").textContent = titleOf(item);
    byId("facts").textContent = facts;
    this.dialog.setAttribute("aria-label", titleOf(item));
    byId("previous").disabled = !(place > 0);
    byId("next").disabled = !(place < total - 1);
    byId("viewer-similar").hidden = !item.id;
    byId("boxes").replaceChildren();
    byId("boxes").classList.remove("lit");
    byId("why").replaceChildren();
    const large = byId("large");
    large.alt = titleOf(item);
    show(large, item.preview);
    if (!this.dialog.open) this.dialog.showModal();
    this.fit();
    if (!query || !item.id) return;
    const explanation = item.explanation || (await this.explain(item));
    if (this.item === item && explanation) this.tell(item, explanation);
  }

  close() {
    if (this.dialog.open) this.dialog.close();
  }

  leave(act) {
    this.close();
    act();
  }

  fit() {
    if (!this.item) return;
    const stage = byId("stage");
    const style = getComputedStyle(stage);
    const width = stage.clientWidth - parseFloat(style.paddingLeft) - parseFloat(style.paddingRight);
    const height = stage.clientHeight - parseFloat(style.paddingTop) - parseFloat(style.paddingBottom);
    const scale = Math.min(width / (this.item.width || 4), height / (this.item.height || 3));
    Object.assign(this.frame.style, { width: `${(this.item.width || 4) * scale}px`, height: `${(this.item.height || 3) * scale}px` });
    if (this.box) this.placeConfirm(this.box);
  }

  // Why

  tell(item, explanation) {
    const words = wordShares(explanation);
    const shares = words.length ? words : regionShares(explanation);
    const most = Math.max(...shares.map((share) => Math.abs(share.contribution)), 1e-9);
    const list = element("ol", {}, ...shares.map((share, place) => this.row(share, most, place)));
    const chance = item.probability === null || item.probability === undefined ? null
      : element("p", { className: "chance" }, `${percent(item.probability)} likely to show what you asked for`);
    const whole = explanation.whole ? `, and ${signed(explanation.whole)} for the picture as a whole,` : "";
    const sum = words.length
      ? `Every word looks for the region that shows it best. What the words add${whole} makes the score, ${explanation.score.toFixed(3)}.`
      : `These regions agree most with the picture you gave. All regions together${whole} make the score, ${explanation.score.toFixed(3)}.`;
    byId("why").replaceChildren(
      element("h3", {}, "Why this photograph"), ...(chance ? [chance] : []), list, element("p", { className: "sum" }, sum),
    );
    const seen = new Set();
    byId("boxes").replaceChildren();
    for (const share of shares) {
      if (seen.has(share.region) || share.contribution <= 0) continue;
      seen.add(share.region);
      const hinted = element("div", { className: "hinted" });
      placeBox(hinted, share.box, item.width || 1, item.height || 1);
      byId("boxes").append(hinted);
    }
  }

  row(share, most, place) {
    const name = share.word === null ? `Region ${place + 1}` : share.word;
    const value = signed(share.contribution);
    const fill = element("i");
    fill.style.width = `${(100 * Math.abs(share.contribution)) / most}%`;
    const button = element(
      "button",
      { type: "button", className: "share", "aria-pressed": "false", "aria-label": `${name}: adds ${value}. Shows its region.` },
      element("span", { className: "name", title: name }, name),
      element("span", { className: `bar${share.contribution < 0 ? " below" : ""}` }, fill),
      element("span", { className: "value" }, value),
    );
    const turns = share.word === null || share.contribution < 0 ? null : element(
      "span", { className: "turns" },
      element("button", { type: "button", className: "round", title: `More ${name}`, "aria-label": `Let ${name} weigh more`,
        onclick: () => this.leave(() => this.onMore(name)) }, icon("plus")),
      element("button", { type: "button", className: "round", title: `Without ${name}`, "aria-label": `Exclude ${name}`,
        onclick: () => this.leave(() => this.onWithout(name)) }, icon("minus")),
    );
    const row = element("li", {}, button, turns);
    const on = () => this.light(share, row), off = () => this.light(this.held?.share, this.held?.row);
    row.addEventListener("pointerenter", on);
    row.addEventListener("pointerleave", off);
    button.addEventListener("focus", on);
    button.addEventListener("blur", off);
    button.addEventListener("click", () => {
      this.held = this.held?.share === share ? null : { share, row };
      for (const other of row.parentNode.querySelectorAll(".share")) other.setAttribute("aria-pressed", String(this.held !== null && other === button));
      on();
    });
    return row;
  }

  light(share, row) {
    const boxes = byId("boxes");
    for (const other of byId("why").querySelectorAll("li")) other.classList.toggle("lit", other === row);
    boxes.classList.toggle("lit", Boolean(share));
    let spot = boxes.querySelector(".spot");
    if (!share) return spot?.remove();
    if (!spot) boxes.append((spot = element("div", { className: "spot" })));
    return placeBox(spot, share.box, this.item.width || 1, this.item.height || 1);
  }

  // A box: by pointer or by keys, as shares of the sides

  choose(box, focus = false) {
    this.box = box;
    this.choice.hidden = byId("confirm").hidden = !box;
    byId("viewer-region").setAttribute("aria-pressed", String(Boolean(box)));
    if (!box) return;
    placeBox(this.choice, box, 1, 1);
    this.placeConfirm(box);
    if (focus) this.choice.focus();
  }

  // Below the box, or above it where there is no room; within the stage, and off the box as long as one of the two is possible.
  placeConfirm(box) {
    const bar = byId("confirm"), stage = byId("stage").getBoundingClientRect(), frame = this.frame.getBoundingClientRect();
    const [left, top] = [frame.left - stage.left + box.x * frame.width, frame.top - stage.top + box.y * frame.height];
    const below = top + box.height * frame.height + 8, above = top - bar.offsetHeight - 8, lowest = stage.height - bar.offsetHeight - 8;
    bar.style.left = `${Math.max(Math.min(left, stage.width - bar.offsetWidth - 8), 8)}px`;
    bar.style.top = `${below <= lowest ? below : above >= 8 ? above : lowest}px`;
  }

  point(event) {
    const bounds = this.frame.getBoundingClientRect();
    const within = (value) => Math.min(Math.max(value, 0), 1);
    return { x: within((event.clientX - bounds.left) / bounds.width), y: within((event.clientY - bounds.top) / bounds.height) };
  }

  press(event) {
    if (event.button !== 0) return;
    event.preventDefault();
    this.frame.setPointerCapture(event.pointerId);
    const from = this.point(event);
    this.drag = { from, moved: event.target === this.choice ? { ...this.box } : null };
    byId("confirm").hidden = true;
  }

  draw(event) {
    const to = this.point(event), { from, moved } = this.drag;
    if (moved) {
      const x = Math.min(Math.max(moved.x + to.x - from.x, 0), 1 - moved.width);
      const y = Math.min(Math.max(moved.y + to.y - from.y, 0), 1 - moved.height);
      this.choose({ ...moved, x, y });
    } else {
      const box = { x: Math.min(from.x, to.x), y: Math.min(from.y, to.y), width: Math.abs(to.x - from.x), height: Math.abs(to.y - from.y) };
      this.choose(box.width > 0.005 && box.height > 0.005 ? box : null);
    }
    byId("confirm").hidden = true;
  }

  drop() {
    if (!this.drag) return;
    this.drag = null;
    this.choose(this.box && this.box.width >= LEAST && this.box.height >= LEAST ? this.box : null);
  }

  moveByKey(event) {
    const step = { ArrowLeft: [-0.02, 0], ArrowRight: [0.02, 0], ArrowUp: [0, -0.02], ArrowDown: [0, 0.02] }[event.key];
    if (!step) return;
    event.preventDefault();
    event.stopPropagation();
    const box = { ...this.box };
    if (event.shiftKey) {
      box.width = Math.min(Math.max(box.width + step[0], 0.05), 1 - box.x);
      box.height = Math.min(Math.max(box.height + step[1], 0.05), 1 - box.y);
    } else {
      box.x = Math.min(Math.max(box.x + step[0], 0), 1 - box.width);
      box.y = Math.min(Math.max(box.y + step[1], 0), 1 - box.height);
    }
    this.choose(box);
  }

  searchRegion() {
    const { item, box } = this;
    const pixels = {
      x: Math.round(box.x * item.width), y: Math.round(box.y * item.height),
      width: Math.max(Math.round(box.width * item.width), 1), height: Math.max(Math.round(box.height * item.height), 1),
    };
    this.leave(() => this.onRegion(item, pixels));
  }

  key(event) {
    if (event.target === this.choice || event.altKey || event.ctrlKey || event.metaKey) return;
    if (event.key === "ArrowLeft") this.onStep(-1);
    else if (event.key === "ArrowRight") this.onStep(1);
    else if (event.key === "s" && this.item.id) this.leave(() => this.onSimilar(this.item));
    else if (event.key === "r") byId("viewer-region").click();
    else return;
    event.preventDefault();
  }
}

// Of a further picture of a file with its number, as the terminal prints it.
export const titleOf = (item) => (item.frame ? `${item.name}[${item.frame}]` : item.name);

const signed = (value) => value.toFixed(3).replace("-", "−");
export const percent = (probability) =>
  probability >= 0.995 ? "over 99 %" : probability < 0.005 ? "under 1 %" : `${Math.round(100 * probability)} %`;
