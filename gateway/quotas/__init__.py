"""How much one credential, one client address and one tenant may take. Everything here is off until it is set."""

from gateway.quotas.quotas import Quotas

__all__ = ["Quotas"]
