"""edge-agent: computer vision on the box next to the camera."""

__version__ = "0.1.0"
