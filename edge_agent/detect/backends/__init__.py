"""detect/backends."""
