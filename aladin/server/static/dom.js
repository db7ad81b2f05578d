// Elements without markup in strings: text is always text, whatever a file is called.

const SVG = "http://www.w3.org/2000/svg";

export const byId = (id) => document.getElementById(id);

export function element(tag, properties = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (name.startsWith("on")) made.addEventListener(name.slice(2), value);
    else if (name in made && !name.startsWith("aria")) made[name] = value;
    else made.setAttribute(name, value);
  }
  made.append(...children.filter((child) => child !== null && child !== undefined));
  return made;
}

export function icon(name) {
  const svg = document.createElementNS(SVG, "svg");
  const use = document.createElementNS(SVG, "use");
  svg.setAttribute("class", "icon");
  svg.setAttribute("aria-hidden", "true");
  use.setAttribute("href", `#${name}`);
  svg.append(use);
  return svg;
}

export function place(node, left, top, width, height, unit = "px") {
  Object.assign(node.style, { left: left + unit, top: top + unit, width: width + unit, height: height + unit });
}

// A box in px of a picture, as shares of its sides.
export function placeBox(node, box, width, height) {
  place(node, (100 * box.x) / width, (100 * box.y) / height, (100 * box.width) / width, (100 * box.height) / height, "%");
}
