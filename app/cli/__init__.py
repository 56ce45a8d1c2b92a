"""The commands that use a service over HTTP: speak and voices."""
