"""Middleware and protocol: API keys, body limit, timeouts, error handlers."""
