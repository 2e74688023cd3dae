"""The side-by-side bench: the gateway and its public peers on one machine, in one run, in interleaved rounds."""
