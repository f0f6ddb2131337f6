"""Training of the agent's own detectors: ``python -m training --help``. Needs ``training/requirements.txt``, not the agent."""
