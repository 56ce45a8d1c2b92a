"""Speech over WebSockets (API.md section 4): clients send texts and receive audio on one connection."""
