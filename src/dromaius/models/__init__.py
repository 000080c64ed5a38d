"""Model families, one folder each; they do not import one another."""
