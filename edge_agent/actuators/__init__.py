"""Devices that are commanded over MQTT: at once or never, and back to their safe state whatever happens."""
