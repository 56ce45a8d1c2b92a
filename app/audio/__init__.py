"""Audio processing between the engine and the client: speed, watermark, encoding."""
