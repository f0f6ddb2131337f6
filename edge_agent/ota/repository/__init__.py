"""The operator's side: the folder of an update repository, its keys, and what is published there. No box needs it."""
