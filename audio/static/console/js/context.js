/** The data of the server for the scripts of a page: its address, the reader, and their scopes. */

export const context = JSON.parse(document.getElementById("for-scripts").textContent);

/** Return the URL of a path of this server, such as "api/keys". The server may be below a path of its host. */
export const url = (path) => context.root + path;

/** Return whether the reader may do something ("read", "record", "manage") in a project, given by its name. */
export function may(scope, project) {
  const known = context.projects.find((each) => each.name === project);
  return context.everywhere.includes(scope) || Boolean(known?.scopes.includes(scope));
}

/** Return whether the reader may do something in at least one project. */
export const mayAnywhere = (scope) =>
  context.everywhere.includes(scope) || context.projects.some((each) => each.scopes.includes(scope));
