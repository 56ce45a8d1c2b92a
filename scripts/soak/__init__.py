"""A soak of the service: hours of ordinary trouble in ten minutes, on the fake engine and over loopback alone."""
