"""One training run, from its spec to the rows of its trajectory."""
