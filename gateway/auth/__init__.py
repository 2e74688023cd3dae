"""Authentication and authorization: credentials become a Principal, and a table says which scope each route needs.

Rooms: `principal`, `rules`, `bearer`, `claims` and `read_tokens` are pure; `keys` reads a file, `jwks` an address and
`token_keys` the database; `jwt` verifies; the application asks `gate`, once for each request; `auth` makes all of it
from the settings.
"""
