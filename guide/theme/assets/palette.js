// Shows the page in the colours that its reader chose, before it is drawn.
(() => {
  const palette = __md_get("__palette");
  for (const [name, value] of Object.entries(palette?.color ?? {})) {
    document.body.setAttribute(`data-md-color-${name}`, value);
  }
})();
