"""Load tests, beside the package and not in it."""
