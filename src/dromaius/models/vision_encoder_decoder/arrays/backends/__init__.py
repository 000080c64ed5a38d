"""The operations of `namespace` in other frameworks, imported when asked for."""
