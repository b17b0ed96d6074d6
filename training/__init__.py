"""Training with deleted patches, so that deletion is in-domain when it is scored."""
