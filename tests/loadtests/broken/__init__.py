"""`run-gateway` with one law broken on purpose: what `loadtests.survival` has to notice."""
