/** Elements of pages. Texts always become text nodes, so that no name of a session is ever read as HTML. */

const ICONS = new URL("../icons.svg", import.meta.url).href;
const SVG = "http://www.w3.org/2000/svg";

/**
 * Return a new element.
 *
 * @param {string} name - Its tag, with classes: "button.small.plain".
 * @param {object} [properties] - Attributes. Functions are listeners ("onclick"), false and null are left out.
 * @param {...(Node|string|number|null|false)} children - What it contains. Empty ones are left out.
 */
export function h(name, properties = {}, ...children) {
  const [tag, ...classes] = name.split(".");
  const element = document.createElement(tag);
  if (classes.length) element.classList.add(...classes);
  for (const [key, value] of Object.entries(properties)) {
    if (typeof value === "function") element.addEventListener(key.slice(2), value);
    else if (value !== null && value !== undefined && value !== false) element.setAttribute(key, value === true ? "" : value);
  }
  element.append(...children.flat().filter((child) => child !== null && child !== undefined && child !== false));
  return element;
}

/** Return an icon of icons.svg. */
export function icon(name) {
  const svg = document.createElementNS(SVG, "svg");
  svg.classList.add("icon");
  svg.setAttribute("aria-hidden", "true");
  const use = document.createElementNS(SVG, "use");
  use.setAttribute("href", `${ICONS}#${name}`);
  svg.append(use);
  return svg;
}

/** Return a button. A label that is not visible is given as the attribute "aria-label". */
export function button(classes, properties, ...children) {
  return h(`button${classes ? `.${classes}` : ""}`, { type: "button", ...properties }, ...children);
}

let fields = 0;

/** Return a labelled field of a form. */
export function field(label, control, hint) {
  control.id ||= `field-${(fields += 1)}`;
  const described = hint ? h("span.hint", { id: `${control.id}-hint` }, hint) : null;
  if (described) control.setAttribute("aria-describedby", described.id);
  return h("div.field", {}, h("label", { for: control.id }, label), control, described);
}
