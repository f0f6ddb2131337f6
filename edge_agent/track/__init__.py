"""Multi-object tracking."""

from edge_agent.track.tracker import MultiObjectTracker

__all__ = ["MultiObjectTracker"]
