"""Voice conversations over OpenAI's Realtime protocol (API.md section 9)."""
