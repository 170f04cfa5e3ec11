/** The parser of the search field of the list. */

const ID = /^[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}$/i;

/**
 * Return the filters of a search: a session id, "key=value" of the metadata, "@" and who, or the beginning of a name.
 */
export function parseSearch(text) {
  const wanted = text.trim();
  if (!wanted) return {};
  if (ID.test(wanted)) return { id: wanted.toLowerCase() };
  if (wanted.startsWith("@")) return wanted.length > 1 ? { user_id: wanted.slice(1) } : {};
  const [, key, value] = /^([^\s=]+)=(.+)$/.exec(wanted) ?? [];
  return key ? { metadata: { [key]: value } } : { name: wanted };
}

/** Whether a session is among those that filters select. */
export function matches(session, { status, format, project, name, user_id: userId, metadata = {} }) {
  return (
    (!status || session.status === status) &&
    (!format || session.format === format) &&
    (!project || session.project === project) &&
    (!name || Boolean(session.name?.startsWith(name))) &&
    (!userId || session.user_id === userId) &&
    Object.entries(metadata).every(([key, value]) => session.metadata[key] === value)
  );
}
