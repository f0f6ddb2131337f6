"""Commands to a running agent, over MQTT and at the control socket: one way in, one record, one worker."""
