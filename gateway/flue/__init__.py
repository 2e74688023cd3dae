"""A Flue app's runs, read from its own tables in the same Postgres and served from any Machine.

Written against Flue (withastro/flue) 1.0.0-beta.9, whose tables are of schema version 4.
"""
