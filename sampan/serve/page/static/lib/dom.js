// Makes elements. Text becomes text nodes: nothing on this page parses HTML.

const SVG = "http://www.w3.org/2000/svg";

/** An element with attributes (`on`: event listeners by name; null and false: absent) and children. */
export function element(tag, attributes = {}, ...children) {
  return fill(document.createElement(tag), attributes, children);
}

export function svg(tag, attributes = {}, ...children) {
  return fill(document.createElementNS(SVG, tag), attributes, children);
}

/** One of the drawings at the top of index.html. */
export function icon(name) {
  return svg("svg", { "class": "icon", "aria-hidden": "true" }, svg("use", { href: `#icon-${name}` }));
}

/** A button that shows an icon and says its name to those who do not see it. */
export function iconButton(name, label, onClick, attributes = {}) {
  const given = {
    "type": "button",
    "class": "icon-button",
    "title": label,
    "aria-label": label,
    ...attributes,
  };
  return element("button", { ...given, on: { click: onClick } }, icon(name));
}

export function byId(id) {
  return document.getElementById(id);
}

function fill(node, { on = {}, ...attributes }, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (value === true) node.setAttribute(name, "");
    else if (value !== null && value !== undefined && value !== false) node.setAttribute(name, value);
  }
  for (const [event, listener] of Object.entries(on)) node.addEventListener(event, listener);
  node.append(...children.filter((child) => child !== null && child !== undefined));
  return node;
}
