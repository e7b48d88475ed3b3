"""``slipstream audit``: whether a model writes the same with and without drafts, and what drafting brings it."""
