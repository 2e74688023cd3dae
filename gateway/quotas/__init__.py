"""Quotas of a credential, of a client's address and of a tenant. All of them are off until they are set."""

from gateway.quotas.quotas import Quotas

__all__ = ["Quotas"]
