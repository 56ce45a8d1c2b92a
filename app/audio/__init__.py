"""What is done to audio before it is encoded: speed, watermark."""
