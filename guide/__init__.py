"""The generator of the documentation site: hooks for MkDocs, and changes of its theme."""
