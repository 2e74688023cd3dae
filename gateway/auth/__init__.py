"""Who may do what: credentials become a Principal, and a table says which scope each route needs.

Rooms: `principal`, `rules`, `bearer` and `read_tokens` are pure; `keys`, `jwt` and `token_keys` read files, addresses
and the database; `gate` is what the application asks, once for each request; `face` makes it out of the settings.
"""
