"""Those who listen while the service is measured: what they send, hear and make of it. No torch, no numpy."""
