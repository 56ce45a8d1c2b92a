"""What can be seen from outside: logs, metrics, the machine."""
