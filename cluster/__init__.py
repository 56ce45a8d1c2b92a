"""The service on Ray Serve: one replica for each GPU, on any number of machines."""
