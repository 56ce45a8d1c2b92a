"""Soak test: misbehaving clients and killed workers against the service on the fake engine, on loopback only."""
