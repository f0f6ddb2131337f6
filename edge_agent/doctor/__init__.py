"""Looks over the box: what is there, what is missing, how to mend it. ``examine.examine`` is the way in."""
