"""Speech over WebSockets (API.md section 4): texts come in while audio goes out, on one connection."""
