"""Observability: logs, request records, metrics, component health, system status."""
