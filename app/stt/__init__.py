"""Speech recognition: turns of a conversation, and POST /v1/audio/transcriptions."""
