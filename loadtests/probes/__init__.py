"""Small measurements of one thing each, which others can repeat: see loadtests/README.md."""
