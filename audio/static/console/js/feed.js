/** The rows of the list. Only the pages near the visible part have rows in the document, however long the list is. */

import { h } from "./elements.js";

const MOST_ROWS_IN_PAGE = 100;
// A page this many screens away loses its rows, and keeps its height.
const NEAR = "200% 0px";

/** A page of the list. */
class Page {
  constructor(items, feed) {
    this.items = items;
    this.feed = feed;
    this.element = h("div.feed-page");
    this.element.page = this;
    this.isShown = false;
  }

  show() {
    const first = this.feed.positionOf(this);
    this.element.style.height = "";
    this.element.replaceChildren(...this.items.map((item, index) => this.feed.rowOf(item, first + index)));
    this.isShown = true;
  }

  hide() {
    if (!this.isShown || this.element.contains(document.activeElement)) return;
    this.element.style.height = `${this.element.offsetHeight}px`;
    this.element.replaceChildren();
    this.isShown = false;
  }
}

export class Feed {
  /**
   * @param {HTMLElement} element - The element with the role "feed".
   * @param {(item: object, position: number) => HTMLElement} makeRow - Makes the row of an item.
   */
  constructor(element, makeRow) {
    this.element = element;
    this.makeRow = makeRow;
    this.pages = [];
    this.items = new Map();
    this.observer = new IntersectionObserver((entries) => entries.forEach(onSeen), { rootMargin: NEAR });
  }

  get isEmpty() {
    return this.items.size === 0;
  }

  clear() {
    this.observer.disconnect();
    this.pages = [];
    this.items.clear();
    this.element.replaceChildren();
    this.#showOrHide();
  }

  /** Add a page at the end. Items that are there already, because they moved meanwhile, are left out. */
  append(items) {
    const added = items.filter((item) => !this.items.has(item.session_id));
    if (added.length) this.#insert(new Page(added, this), this.pages.length);
  }

  /** Show the new state of an item, which is added if it is new, at its place: newest first. */
  put(item) {
    const page = this.#pageOf(item.session_id);
    if (page) {
      page.items[page.items.findIndex((each) => each.session_id === item.session_id)] = item;
      this.items.set(item.session_id, item);
      const row = this.#rowElement(page, item.session_id);
      if (row) refresh(row, this.rowOf(item, Number(row.getAttribute("aria-posinset"))));
    } else if (this.isEmpty || item.start_time >= this.pages[0].items.at(-1).start_time) {
      this.#prepend(item);
    }
  }

  remove(id) {
    const page = this.#pageOf(id);
    if (!page) return;
    page.items = page.items.filter((item) => item.session_id !== id);
    this.items.delete(id);
    this.#rowElement(page, id)?.remove();
    if (!page.items.length) {
      this.pages = this.pages.filter((each) => each !== page);
      this.observer.unobserve(page.element);
      page.element.remove();
      this.#showOrHide();
    }
  }

  /** Return the place of a page's first item in the list, counted from one. */
  positionOf(page) {
    const before = this.pages.slice(0, this.pages.indexOf(page));
    return 1 + before.reduce((total, each) => total + each.items.length, 0);
  }

  rowOf(item, position) {
    const row = this.makeRow(item, position);
    row.dataset.id = item.session_id;
    return row;
  }

  /** Move the focus by a number of rows from the focused one, or to the first. */
  moveFocus(step) {
    const links = [...this.element.querySelectorAll("[data-id] a.row-name")];
    const index = links.indexOf(document.activeElement);
    links[index < 0 ? 0 : Math.max(0, Math.min(links.length - 1, index + step))]?.focus();
  }

  #pageOf(id) {
    return this.items.has(id) ? this.pages.find((page) => page.items.some((item) => item.session_id === id)) : undefined;
  }

  #rowElement(page, id) {
    return page.element.querySelector(`[data-id="${id}"]`);
  }

  #prepend(item) {
    const [first] = this.pages;
    if (!first || first.items.length >= MOST_ROWS_IN_PAGE) {
      this.#insert(new Page([item], this), 0);
      return;
    }
    const later = first.items.findIndex((each) => each.start_time <= item.start_time);
    const index = later < 0 ? first.items.length : later;
    first.items.splice(index, 0, item);
    this.items.set(item.session_id, item);
    if (first.isShown) first.element.insertBefore(this.rowOf(item, index + 1), first.element.children[index] ?? null);
  }

  #insert(page, index) {
    this.pages.splice(index, 0, page);
    for (const item of page.items) this.items.set(item.session_id, item);
    page.show();
    this.element.insertBefore(page.element, this.element.children[index] ?? null);
    this.observer.observe(page.element);
    this.#showOrHide();
  }

  /** A feed without articles would confuse screen readers. */
  #showOrHide() {
    this.element.hidden = this.isEmpty;
  }
}

/** Change the parts of a row that differ. An element that has the focus, or is being pressed, is not replaced. */
function refresh(row, wanted) {
  const parts = [...wanted.children];
  [...row.children].forEach((part, index) => part.isEqualNode(parts[index]) || part.replaceWith(parts[index]));
}

function onSeen({ target, isIntersecting }) {
  const { page } = target;
  if (isIntersecting && !page.isShown) page.show();
  else if (!isIntersecting) page.hide();
}
