"""Subscriptions (§6, §7 of the protocol): durable cursors that wake workers, by webhook or by pull-wake.

Rooms: `rules`, `glob`, `targets`, `signing` are pure; `store` and `keyring` ask the database; `watch` and `dispatcher`
are what a Machine does by itself; `webhooks` is one attempt to deliver; `routes`, `handlers` and `http` are HTTP;
`subscriptions` is what the application uses.
"""

from gateway.subscriptions.subscriptions import Subscriptions

__all__ = ["Subscriptions"]
