"""Worker pool: registry, dispatcher, admission, supervision, and each worker's engine."""
