"""The contract for machines: JSON Schemas and AsyncAPI of what the agent publishes, made from the types of the payloads."""
