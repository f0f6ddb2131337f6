"""Other sensors: files of Linux and messages of other devices, as telemetry and for use cases."""
