"""detect/decoders."""
