"""What an integrator does with models, apart from running them: import, verify, compile, compare."""
