"""Load test over HTTP and WebSockets: clients, timing, metrics and reports. Imports neither torch nor numpy."""
