"""Fine-tuning of CSM: from recordings with transcripts to a checkpoint that the service loads."""
